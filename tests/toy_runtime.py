"""A made-up runtime in one file, named in a budget as ``plugins: {runtimes: [toy_runtime.py:Reference]}``.

ONNX's reference evaluator runs the graph in numpy: real, slow, and strict (operators of ONNX itself, no others).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from sousvit.errors import TrialError, one_line
from sousvit.objectives.runtimes.runtime import Runtime, Session
from sousvit.spaces.export.onnx import OnnxExporter


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
            raise TrialError(f"the reference evaluator could not open the model: {one_line(error)}") from error


class ReferenceSession(Session):
    def __init__(self, evaluator):
        self._evaluator = evaluator

    def run(self, batch):
        try:
            return np.asarray(self._evaluator.run(None, {self._evaluator.input_names[0]: batch})[0])
        except Exception as error:
            raise TrialError(f"the reference evaluator failed: {one_line(error)}") from error
