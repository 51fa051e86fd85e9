"""ONNX: the exported graph that ONNX Runtime opens and OpenVINO reads. Importing this file loads no torch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sousvit.errors import TrialError, one_line
from sousvit.machine import silent_stdout
from sousvit.spaces.export.exporter import Exporter, Shape

if TYPE_CHECKING:
    from torch import nn

OPSET = 17
INPUT, OUTPUT = "input", "logits"
#: Protobuf's limit for one file; ONNX would spill weights into files of their own above it.
MAX_GRAPH_BYTES = 2**31 - 1


class OnnxExporter(Exporter):
    """The graph itself: ONNX Runtime opens it as it is."""

    def graph(self, model: nn.Module, input_shape: Shape, folder: Path) -> Path:
        return export_onnx(model, input_shape, folder)

    def is_whole(self, file: Path) -> bool:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

        try:
            # The operators' version stands behind the graph, at the end.
            return bool(onnx.load(file, load_external_data=False).opset_import)
        except DecodeError:
            return False


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
    import torch

    from sousvit.spaces.export.plain import PlainFunctions
    from sousvit.spaces.layers.merging import merged
    from sousvit.spaces.layers.quantized import fold_quantized_weights, has_quantized

    if sum(p.numel() * p.element_size() for p in model.parameters()) >= MAX_GRAPH_BYTES:
        raise TrialError("the model's weights exceed the 2 GB of one ONNX file")
    model = merged(model)
    path = folder / "model.onnx"
    # Two images: with one, tracing may take the batch size for a constant.
    example = torch.zeros(2, *input_shape[1:])
    try:
        with quiet(), torch.no_grad(), _of_images_only(model.eval()), PlainFunctions():
            torch.onnx.export(
                model,
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


@contextmanager
def _of_images_only(model: nn.Module) -> Iterator[None]:
    """Hide the optional arguments of ``model.forward``.

    The exporter passes their defaults as constant tensors, which functions with typed arguments refuse, such as fused
    attention with timm's ``is_causal=False``.
    """
    forward, replaced = model.forward, "forward" in vars(model)
    model.forward = lambda images: forward(images)
    try:
        yield
    finally:
        if replaced:
            model.forward = forward
        else:
            del model.forward


def graph_input_shape(graph: Path) -> Shape:
    """``(1, C, H, W)`` of an exported ONNX file."""
    import onnx

    dimensions = onnx.load(graph, load_external_data=False).graph.input[0].type.tensor_type.shape.dim
    channels, height, width = (int(dimension.dim_value) for dimension in dimensions[1:])
    return 1, channels, height, width


def constant_nodes(graph: Path) -> list[str]:
    """Names of the nodes that read nothing of the image; a runtime computes them when it loads the file."""
    import onnx

    nodes = onnx.load(graph).graph.node
    reading, constant = {INPUT}, []
    for node in nodes:  # in the order in which they run
        if reading.isdisjoint(node.input):
            constant.append(node.name)
        else:
            reading.update(node.output)
    return constant


@contextmanager
def quiet() -> Iterator[None]:
    """Keep warnings, log lines below ERROR and whatever is printed off the console.

    Exporters are talkative about their own future, and print whole graphs where they fail.
    """
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with silent_stdout(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
