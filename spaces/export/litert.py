"""LiteRT (TensorFlow Lite) files: litert-torch converts, Google's quantizer for it writes fewer bits."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sousvit.errors import MissingPackageError, TrialError, one_line
from sousvit.machine import silent_stderr
from sousvit.spaces.export.exporter import Exporter, Shape
from sousvit.spaces.export.onnx import quiet

if TYPE_CHECKING:
    from types import ModuleType

    from torch import nn

FILE = "model.tflite"
#: A flatbuffer's offsets have 32 bits, with a sign.
MAX_BYTES = 2**31 - 1


class LiteRtExporter(Exporter):
    """Files that take one image at a time; the converter takes no int8 layers, as ``qat`` leaves them."""

    takes_rounding: ClassVar[bool] = False

    def graph(self, model: nn.Module, input_shape: Shape, folder: Path) -> Path:
        return export_litert(model, input_shape, folder)


def export_litert(model: nn.Module, input_shape: Shape, folder: Path) -> Path:
    """Write ``folder/model.tflite``: float32, one image ``[1, C, H, W]`` to its predictions.

    A conversion takes seconds (3 for two blocks, 10 for twelve) where an ONNX export takes a third of one.

    Args:
        model: in eval mode on the CPU.
        input_shape: ``(1, C, H, W)``.
        folder: exists.

    Raises:
        MissingPackageError: litert-torch is not installed.
        TrialError: the model does not convert, or is larger than one file can be.
    """
    import torch

    from sousvit.spaces.layers.merging import merged
    from sousvit.spaces.layers.token_math import without_scatter

    if sum(p.numel() * p.element_size() for p in model.parameters()) >= MAX_BYTES:
        raise TrialError("the model's weights exceed the 2 GB of one LiteRT file")
    converter = _import("litert_torch")
    with _silent("the LiteRT conversion"), torch.no_grad(), without_scatter():
        plain = _unfused(_contiguous(merged(model).eval()))
        converter.convert(plain, (torch.zeros(input_shape),)).export(str(folder / FILE))
    return folder / FILE


def _contiguous(model: nn.Module) -> nn.Module:
    """A copy whose tensors are contiguous.

    litert-torch 0.10 knows constants by their address and frees its contiguous copies of others before the next one:
    transposed or sliced weights came out as those of another layer.
    """
    model = copy.deepcopy(model)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.contiguous()
    return model


def _unfused(model: nn.Module) -> nn.Module:
    """``model`` with its multi-query attention as matrix products.

    litert-torch 0.10 converts fused attention with fewer heads of keys than of queries to something else.
    """
    from timm.layers.attention2d import MultiQueryAttention2d

    for part in model.modules():
        if isinstance(part, MultiQueryAttention2d):
            part.fused_attn = False
    return model


def quantize_litert(graph: Path, rules: list[dict[str, Any]], folder: Path) -> Path:
    """Write ``graph`` to ``folder`` with its weights as ``rules`` (a recipe of ai_edge_quantizer) say.

    Raises:
        MissingPackageError: the quantizer is not installed.
        TrialError: it failed.
    """
    quantizer = _import("ai_edge_quantizer.quantizer")
    with _silent("LiteRT's quantizer"):
        work = quantizer.Quantizer(str(graph))
        work.load_quantization_recipe(rules)
        work.quantize().export_model(str(folder / FILE))
    return folder / FILE


def litert_rules(bits: int) -> list[dict[str, Any]]:
    """Rules of ai_edge_quantizer: weights of 8 or 4 bits, one scale per channel, activations quantized as they come."""
    recipes = _import("ai_edge_quantizer.recipe")
    rules: list[dict[str, Any]] = recipes.dynamic_wi8_afp32() if bits == 8 else recipes.dynamic_wi4c_afp32()
    return rules


def half_rules() -> list[dict[str, Any]]:
    """Rules of ai_edge_quantizer: weights in float16, float32 arithmetic."""
    weights = {"num_bits": 16, "dtype": "FLOAT", "symmetric": True, "granularity": "TENSORWISE"}
    config = {"weight_tensor_config": weights, "compute_precision": "FLOAT", "explicit_dequantize": True,
              "skip_checks": False, "min_weight_elements": 0}  # fmt: skip
    return [{"regex": ".*", "operation": "*", "algorithm_key": "float_casting", "op_config": config}]


def _import(name: str) -> ModuleType:
    try:
        with _quiet():
            return importlib.import_module(name)
    except ImportError as error:
        raise MissingPackageError(name.partition(".")[0], "a LiteRT file", "litert") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Swallow the progress that Python and compiled code tell."""
    with quiet(), silent_stderr():
        yield


@contextmanager
def _silent(what: str) -> Iterator[None]:
    """Quiet, and any failure is a one-line :class:`TrialError`."""
    try:
        with _quiet():
            yield
    except OSError:  # a full disk is told as such by whoever owns the folder
        raise
    except Exception as error:  # the tools raise many kinds
        raise TrialError(f"{what} failed: {one_line(error)}") from error
