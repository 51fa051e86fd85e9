"""Linear layers that compute in int8: simulated in PyTorch, exported as QuantizeLinear/DequantizeLinear pairs.

A :class:`QuantLinear` gives the same numbers in PyTorch and in the runtime. ONNX Runtime fuses its pattern into one
integer product (``QuantizeLinear -> MatMulIntegerToFloat``), OpenVINO reads it as FakeQuantize. In training its step
sizes learn by the gradient of LSQ (Esser et al., arXiv 1902.08153); zero points, as LSQ+ (2004.09576) adds them, stay
as calibrated.
Activations are asymmetric uint8 with one scale per tensor, weights symmetric with one scale per output channel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

#: The largest magnitude of a quantized weight, by name: int7 leaves room where products are added in 16 bits.
WEIGHT_LEVELS = {"int8": 127, "int7": 63}
ACTIVATION_LEVELS = 255
#: Range assumed where no data has been seen (a skeleton's speed does not depend on it).
SKELETON_RANGE = (-4.0, 4.0)
_SMALLEST_SCALE = 1e-8


class QuantLinear(nn.Module):
    """``y = Q(x) Q(W)^T + b`` in place of an ``nn.Linear``.

    Args:
        linear: the layer to replace; its parameters are taken over, weights beyond the range are clipped.
        levels: largest magnitude of a quantized weight.
        low: smallest activation; it becomes 0 of uint8 (0 itself is always exact).
        high: largest activation.
        weight_scale: ``[outputs]``, or None for the largest magnitude of each row.
    """

    weight_scale: torch.Tensor
    act_scale: torch.Tensor
    act_zero: torch.Tensor
    weight_zero: torch.Tensor

    def __init__(
        self,
        linear: nn.Linear,
        levels: int = WEIGHT_LEVELS["int8"],
        low: float = SKELETON_RANGE[0],
        high: float = SKELETON_RANGE[1],
        weight_scale: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.levels = linear.in_features, linear.out_features, levels
        self.bias = linear.bias
        self.keeps_zeros = bool(getattr(linear, "keeps_zeros", False))
        scale = linear.weight.detach().abs().amax(1) / levels if weight_scale is None else weight_scale
        self.weight_scale = nn.Parameter(scale.float().clamp_min(_SMALLEST_SCALE))
        self.weight = nn.Parameter(self._clipped(linear.weight.detach()))
        step, zero = activation_grid(low, high)
        self.act_scale = nn.Parameter(torch.tensor(step))
        self.register_buffer("act_zero", torch.tensor(zero, dtype=torch.int32))
        self.register_buffer("weight_zero", torch.zeros(linear.out_features, dtype=torch.int32))

    def train(self, mode: bool = True) -> QuantLinear:
        """Switch the mode; when training ends, weights are clipped to what the levels hold, as training saw them."""
        if self.training and not mode:
            with torch.no_grad():
                self.weight.copy_(self._clipped(self.weight))
        super().train(mode)
        return self

    def _clipped(self, weight: torch.Tensor) -> torch.Tensor:
        most = self.levels * self.weight_scale.detach().abs()[:, None]
        return torch.clamp(weight, -most, most)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., inputs]`` to ``[..., outputs]``."""
        if self.training:
            return nn.functional.linear(self._train_activation(x), self._train_weight(), self.bias)
        x = torch.fake_quantize_per_tensor_affine(x, self.act_scale.detach(), self.act_zero, 0, ACTIVATION_LEVELS)
        # Weights enter transposed: the runtimes fuse a product with a constant matrix on its right.
        weight = torch.fake_quantize_per_channel_affine(
            self.weight.t().contiguous(), self.weight_scale.detach(), self.weight_zero, 1, -128, 127
        )
        product = torch.matmul(x, weight)
        return product if self.bias is None else product + self.bias

    def _train_activation(self, x: torch.Tensor) -> torch.Tensor:
        per_image = x[0].numel()
        x = x.float()  # under autocast, bf16 could not hold 255 levels
        return lsq(x, self.act_scale, self.act_zero, 0, ACTIVATION_LEVELS, 1 / math.sqrt(per_image * ACTIVATION_LEVELS))

    def _train_weight(self) -> torch.Tensor:
        gain = 1 / math.sqrt(self.in_features * self.levels)
        return lsq(self.weight, self.weight_scale[:, None], 0, -self.levels, self.levels, gain)

    def extra_repr(self) -> str:
        """As ``nn.Linear`` prints itself."""
        return f"in_features={self.in_features}, out_features={self.out_features}, levels={self.levels}"


def lsq(
    x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | int, low: int, high: int, gain: float
) -> torch.Tensor:
    """Fake quantization whose step size learns: the gradient of LSQ, straight through the rounding.

    Args:
        x: values.
        scale: step size, broadcast to ``x``.
        zero: the integer that stands for 0.
        low: smallest integer.
        high: largest integer.
        gain: factor of the step size's gradient; LSQ takes ``1 / sqrt(values * high)``.
    """
    scale = scale.abs().clamp_min(_SMALLEST_SCALE)
    scale = scale * gain + (scale - scale * gain).detach()
    levels = torch.clamp(x / scale + zero, low, high)
    rounded = levels + (levels.round() - levels).detach()
    return (rounded - zero) * scale


def activation_grid(low: float, high: float) -> tuple[float, int]:
    """(step size, zero point) of uint8 for values in [low, high], widened to hold 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = max((high - low) / ACTIVATION_LEVELS, _SMALLEST_SCALE)
    return step, int(min(ACTIVATION_LEVELS, max(0, round(-low / step))))


def has_quantized(model: nn.Module) -> bool:
    """Whether some layer of ``model`` is quantized."""
    return any(isinstance(module, QuantLinear) for module in model.modules())


def linear_layers(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """(parent, attribute name, layer) of every linear layer but the classifiers, in the order of definition."""
    skipped = {id(getattr(model, name, None)) for name in ("head", "head_dist", "classifier")}
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and id(child) not in skipped and not _is_inside_head(model, child):
                yield parent, name, child


def _is_inside_head(model: nn.Module, layer: nn.Module) -> bool:
    head = getattr(model, "head", None)
    return isinstance(head, nn.Module) and any(layer is module for module in head.modules())


@torch.no_grad()
def image_readers(model: nn.Module, shape: tuple[int, int, int] | None) -> list[nn.Linear]:
    """The layers of :func:`linear_layers` that are called with something that depends on the image.

    Others gain nothing by quantization and may not take part in it: a module may use their weights in a function of
    its own, and what is made of constants (a table of relative positions) is folded when the model is exported. Found
    by running the model on two images of noise ``(C, H, W)``; without a known size every layer counts.
    """
    layers = [layer for _, _, layer in linear_layers(model)]
    if shape is None or not layers:
        return layers
    seen: dict[int, list[torch.Tensor]] = {}
    handles = [
        layer.register_forward_pre_hook(lambda layer, inputs: seen.setdefault(id(layer), []).append(inputs[0]))
        for layer in layers
    ]
    try:
        for image in torch.randn(2, 1, *shape, generator=torch.Generator().manual_seed(0)):
            model.eval()(image)
    finally:
        for handle in handles:
            handle.remove()
    return [layer for layer in layers if any(not torch.equal(seen[id(layer)][0], x) for x in seen.get(id(layer), ()))]


def replace_layers(model: nn.Module, make: Callable[[nn.Linear], nn.Module | None]) -> int:
    """Replace every linear layer by ``make(layer)`` (None keeps it); returns how many were replaced."""
    count = 0
    for parent, name, layer in list(linear_layers(model)):
        replaced = make(layer)
        if replaced is not None:
            setattr(parent, name, replaced.train(layer.training))
            count += 1
    return count


def fold_quantized_weights(path: Path) -> None:
    """Store quantized constants of an exported graph as the integers they are: a quarter of the bytes.

    Every ``QuantizeLinear`` of an initializer is computed here and replaced by its int8 result; the
    ``DequantizeLinear`` after it stays, so the runtimes still see the pattern.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    graph = model.graph
    constants = {entry.name: entry for entry in graph.initializer}
    aliases = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Identity"}
    arrays = {name: numpy_helper.to_array(entry) for name, entry in constants.items()}

    def constant(name: str) -> Any:
        return arrays.get(aliases.get(name, name))

    kept, gone = [], set()
    for node in graph.node:
        values: list[Any] = [None]
        if node.op_type == "QuantizeLinear":
            values = [constant(name) for name in node.input]
        if any(value is None for value in values):
            kept.append(node)
            continue
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        graph.initializer.append(numpy_helper.from_array(_quantize(values, axis), node.output[0]))
        gone.add(node.input[0])
    del graph.node[:]
    graph.node.extend(kept)
    used = {name for node in kept for name in node.input}
    unused = [entry for entry in graph.initializer if entry.name in gone and entry.name not in used]
    for entry in unused:
        graph.initializer.remove(entry)
    onnx.save(model, path)


def _quantize(values: list[Any], axis: int) -> Any:
    """``QuantizeLinear`` of ONNX: round half to even, saturate to the type of the zero point."""
    import numpy as np

    array, scale, zero = (np.asarray(value) for value in values)
    if scale.ndim:
        shape = [1] * array.ndim
        shape[axis] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    limits = np.iinfo(zero.dtype)
    rounded = np.rint(array / scale) + zero.astype(np.int32)
    return np.clip(rounded, limits.min, limits.max).astype(zero.dtype)
