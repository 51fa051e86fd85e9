"""A made-up runtime in one file: the reference evaluator of ONNX, in numpy. Slow; knows no operators but ONNX's."""

from typing import ClassVar

from sousvit.errors import TrialError, one_line
from sousvit.objectives.runtimes.runtime import Runtime, Session
from sousvit.spaces.export.onnx import INPUT, OnnxExporter


class ReferenceExporter(OnnxExporter):
    takes_rounding = False  # the evaluator has DequantizeLinear of later opsets only
    deployments: ClassVar = {"fp16": "onnxruntime", "int8_dynamic": "onnxruntime"}


class Reference(Runtime):
    name, packages, exporter, opens_untrusted = "reference", ("onnx",), ReferenceExporter, True

    def open(self, artifact, threads, batch=None):
        from onnx.reference import ReferenceEvaluator

        try:
            return ReferenceSession(ReferenceEvaluator(str(artifact.path)))
        except Exception as error:
            raise TrialError(f"the evaluator could not open the model: {one_line(error)}") from error


class ReferenceSession(Session):
    def __init__(self, evaluator):
        self.evaluator = evaluator

    def run(self, batch):
        try:
            return self.evaluator.run(None, {INPUT: batch})[0]
        except Exception as error:
            raise TrialError(f"the evaluator failed: {one_line(error)}") from error
