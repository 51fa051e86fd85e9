"""From a PyTorch model to an artifact folder: one export (ONNX, or LiteRT's own), then what the runtime opens."""

from __future__ import annotations

import copy
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from sousvit.common.errors import TrialError, UserError, one_line
from sousvit.common.files import disk_errors_as_user_errors
from sousvit.common.openvino import import_openvino
from sousvit.spaces.artifact import Artifact
from sousvit.spaces.merging import merged
from sousvit.spaces.quantized import fold_quantized_weights, has_quantized
from sousvit.spaces.technique import DeployTechnique

if TYPE_CHECKING:
    from sousvit.spaces.recipe import Step
    from sousvit.spaces.technique import Context

OPSET = 17
INPUT, OUTPUT = "input", "logits"
#: Protobuf's limit for one file; ONNX would spill weights into files of their own above it.
MAX_GRAPH_BYTES = 2**31 - 1

Shape = tuple[int, int, int, int]


def export_onnx(model: nn.Module, input_shape: Shape, folder: Path) -> Path:
    """Write ``folder/model.onnx``: float32, opset 17, free batch, input ``input``, output ``logits``.

    ``dynamo=False`` takes a third of a second where the new exporter takes several, at the same latency. It stores
    equal tensors once, so a freshly initialised model (zero biases) gives a slightly smaller file than a trained one.

    Args:
        model: in eval mode on the CPU.
        input_shape: ``(1, C, H, W)``.
        folder: exists.

    Raises:
        TrialError: the model cannot be traced, or is larger than one ONNX file can be.
    """
    if sum(p.numel() * p.element_size() for p in model.parameters()) >= MAX_GRAPH_BYTES:
        raise TrialError("the model's weights exceed the 2 GB of one ONNX file")
    model = merged(model)
    path = folder / "model.onnx"
    # Two images: with one, tracing may take the batch size for a constant.
    example = torch.zeros(2, *input_shape[1:])
    try:
        with quiet(), torch.no_grad():
            torch.onnx.export(
                model.eval(),
                (example,),
                str(path),
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
                do_constant_folding=True,
            )
    except OSError:  # a full disk is told as such by whoever owns the folder
        raise
    except Exception as error:  # the tracer raises whatever the model's code raises
        raise TrialError(f"the ONNX export failed: {one_line(error)}") from error
    if has_quantized(model):
        fold_quantized_weights(path)
    return path


def make_artifact(
    model: nn.Module,
    input_shape: Shape,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    runtime: str,
    deploy_step: Step | None,
    context: Context,
    folder: Path,
) -> Artifact:
    """Export ``model`` for ``runtime`` into ``folder``, which appears whole or not at all.

    Args:
        model: in eval mode on the CPU.
        input_shape: ``(1, C, H, W)``.
        mean: per channel, of pixels in [0, 1]; stored with the artifact.
        std: likewise.
        runtime: ``onnxruntime``, ``openvino``, ``litert`` or ``torch``.
        deploy_step: the recipe's deploy step; None writes plain fp32.
        context: its calibration images serve the deploy step.
        folder: replaced if it exists.

    Raises:
        TrialError: the export or the deploy step failed on this model.
        MissingPackageError: the runtime's package is not installed.
        UserError: the disk does not take the files.
    """
    with disk_errors_as_user_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            out = work / "artifact"
            out.mkdir()
            artifact = _fill(model, input_shape, runtime, deploy_step, context, work, out)
            replace(artifact, folder=out, input_shape=input_shape, mean=tuple(mean), std=tuple(std)).save()
            if folder.exists():
                folder.rename(work / "replaced")
            out.rename(folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return Artifact.open(folder)


def _fill(
    model: nn.Module, shape: Shape, runtime: str, deploy_step: Step | None, context: Context, work: Path, out: Path
) -> Artifact:
    if runtime == "torch":
        if deploy_step is not None:
            raise UserError("the torch runtime has no deploy steps", deploy_step, "choose another runtime")
        return _save_torch(model, shape, out)
    if deploy_step is not None:
        handler = deploy_step.handler
        assert isinstance(handler, DeployTechnique)
        prepared = handler.prepare(copy.deepcopy(model), deploy_step.config, context)
        return handler.deploy(_graph(prepared, shape, runtime, work), runtime, deploy_step.config, context, out)
    if runtime == "openvino":
        save_openvino(read_openvino(export_onnx(model, shape, work)), out)
        return Artifact(out, runtime, "model.xml")
    return Artifact(out, runtime, _graph(model, shape, runtime, out).name)


def _graph(model: nn.Module, shape: Shape, runtime: str, folder: Path) -> Path:
    """The float32 file that deploy steps begin with."""
    from sousvit.spaces.litert import export_litert

    return (export_litert if runtime == "litert" else export_onnx)(model, shape, folder)


def _save_torch(model: nn.Module, shape: Shape, out: Path) -> Artifact:
    batch = torch.export.Dim("batch", min=1, max=65535)
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(model.eval(), (torch.zeros(2, *shape[1:]),), dynamic_shapes=({0: batch},))
            torch.export.save(program, out / "model.pt2")
    except Exception as error:  # as for ONNX
        raise TrialError(f"torch.export failed: {one_line(error)}") from error
    return Artifact(out, "torch", "model.pt2")


def read_openvino(graph: Path) -> object:
    """The ``openvino.Model`` of an ONNX file.

    Raises:
        MissingPackageError: OpenVINO is not installed.
        TrialError: OpenVINO does not take the graph.
    """
    openvino = import_openvino("the openvino runtime")
    try:
        with quiet():
            # Not openvino.convert_model: it reports each use to a web service.
            return openvino.Core().read_model(graph)
    except Exception as error:  # OpenVINO raises many kinds
        raise TrialError(f"OpenVINO could not read the graph: {one_line(error)}") from error


def save_openvino(model: object, folder: Path, fp16: bool = False) -> None:
    """Write ``model.xml`` and ``model.bin``; ``fp16`` stores float weights in two bytes."""
    import_openvino("the openvino runtime").save_model(model, folder / "model.xml", compress_to_fp16=fp16)


def graph_input_shape(graph: Path) -> Shape:
    """``(1, C, H, W)`` of an exported ONNX file."""
    import onnx

    dimensions = onnx.load(graph, load_external_data=False).graph.input[0].type.tensor_type.shape.dim
    channels, height, width = (int(dimension.dim_value) for dimension in dimensions[1:])
    return 1, channels, height, width


@contextmanager
def quiet() -> Iterator[None]:
    """Keep warnings and log lines below ERROR off the console: exporters are talkative about their own future."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
