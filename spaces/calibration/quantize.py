"""Post-training quantization: ranges, smoothing, and blocks that stay float because they are too sensitive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from sousvit.errors import TrialError
from sousvit.machine import fast_products
from sousvit.spaces.calibration.ranges import Clip, InputSample, activation_range, sample_inputs, weight_scales
from sousvit.spaces.calibration.smoothing import Smoothing, norm_readers, smooth_pair
from sousvit.spaces.calibration.stream import calibration_images, check_deadline, enough_images, image_batches
from sousvit.spaces.layers.merging import merged
from sousvit.spaces.layers.quantized import (
    ACTIVATION_LEVELS,
    SKELETON_RANGE,
    WEIGHT_LEVELS,
    QuantLinear,
    activation_grid,
    image_readers,
    linear_layers,
    replace_layers,
)
from sousvit.spaces.tasks.task import task_of

if TYPE_CHECKING:
    from sousvit.spaces.context import Context

#: Images for sensitivities of blocks, at least of large ones.
SENSITIVITY_IMAGES, LEAST_SENSITIVITY = 64, 16
#: Images for sensitivities of whole parts (a detector predicts at about a thousand positions of each image).
PART_IMAGES = 16
#: Layers that quantizers of whole graphs, such as NNCF, quantize.
QUANTIZED_BY_TOOLS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


@dataclass(frozen=True)
class QuantPlan:
    """Settings of post-training quantization.

    Attributes:
        weights: ``int8``, or ``int7`` where the CPU adds int8 products in 16 bits.
        clip: how ranges are chosen.
        smoothing: how the spread of activations moves into weights.
        strength: SmoothQuant's exponent.
        float_blocks: how many blocks, the most sensitive ones, stay float.
    """

    weights: str = "int8"
    clip: Clip = "mse"
    smoothing: Smoothing = "none"
    strength: float = 0.5
    float_blocks: int = 0


def quantize_model(model: nn.Module, plan: QuantPlan, context: Context) -> nn.Module:
    """Replace the linear layers of ``model`` by quantized ones; classifiers and convolutions stay float.

    So do layers that read nothing of the image, see :func:`.image_readers`. Norms that deployment folds into layers
    are folded first, in a copy of the model, so that those layers are found; a model without such norms is changed in
    place.

    Without calibration images the ranges are made up, and the first blocks stay float: only speed and size count then.

    Raises:
        TrialError: calibration failed, or no layer can be quantized.
    """
    levels, model = WEIGHT_LEVELS[plan.weights], merged(model)
    _call_projections(model)
    layers = image_readers(model, context.image_shape)
    if not layers:
        raise TrialError("no linear layer besides the classifier is called with what the model makes of an image")
    if context.calibration is None:
        wanted = set(map(id, layers)) - _layers_of_blocks(model, list(range(plan.float_blocks)))
        replace_layers(model, lambda layer: QuantLinear(layer, levels) if id(layer) in wanted else None)
        return model.eval()
    samples = dict(zip(map(id, layers), sample_inputs(model.eval(), layers, context), strict=True))
    for norm, reader in norm_readers(model):
        if id(reader) in samples:
            samples[id(reader)] = smooth_pair(norm, reader, samples[id(reader)], plan.smoothing, plan.strength)
    quantized = {id(layer): _quantized(layer, samples[id(layer)], levels, plan.clip) for layer in layers}
    skipped = set()
    if plan.float_blocks:
        order = sensitive_blocks(model, quantized, context)
        skipped = _layers_of_blocks(model, order[: plan.float_blocks])
    replace_layers(model, lambda layer: None if id(layer) in skipped else quantized.get(id(layer)))
    return model.eval()


def _call_projections(model: nn.Module) -> None:
    """Have attention call its projection where it would use the weights of it in a function.

    timm's attention with separate biases of queries and values (BEiT, EVA-02, Swin v2) offers both ways.
    """
    for module in model.modules():
        if hasattr(module, "qkv_bias_separate"):
            setattr(module, "qkv_bias_separate", True)  # noqa: B010 - no attribute of nn.Module


def _quantized(layer: nn.Linear, sample: InputSample, levels: int, clip: Clip) -> QuantLinear:
    low, high = activation_range(sample, clip)
    if low == high:  # nothing but zeros came in
        low, high = SKELETON_RANGE
    return QuantLinear(layer, levels, low, high, weight_scales(layer.weight, levels, clip))


def _layers_of_blocks(model: nn.Module, indices: list[int]) -> set[int]:
    blocks = list(getattr(model, "blocks", ()))
    return {id(module) for index in indices if index < len(blocks) for module in blocks[index].modules()}


@torch.no_grad()
def sensitive_blocks(model: nn.Module, quantized: dict[int, QuantLinear], context: Context) -> list[int]:
    """Indices of the model's blocks, the one first whose quantization alone changes the predictions most.

    The change is the task's divergence of the half-quantized model's predictions from the float model's.
    """
    images = enough_images(context, SENSITIVITY_IMAGES, LEAST_SENSITIVITY)
    batch = torch.cat([batch for batch, _ in image_batches(images, context)])
    harms = []
    with fast_products():  # in float32: int8 rounds hardly more than bf16
        target = model(batch)
        for index in range(len(list(getattr(model, "blocks", ())))):
            check_deadline(context, "measuring sensitivities")
            inside = _layers_of_blocks(model, [index])
            harms.append(_harm(model, inside, quantized, batch, target))
    return sorted(range(len(harms)), key=lambda index: -harms[index])


def sensitive_parts(model: nn.Module, parts: Mapping[str, nn.Module], context: Context) -> list[str]:
    """Names of ``parts``, the one first whose quantization alone changes the predictions most."""
    harms = part_sensitivities(model, parts, context)
    return sorted(harms, key=lambda name: -harms[name])


def part_sensitivities(model: nn.Module, parts: Mapping[str, nn.Module], context: Context) -> dict[str, float]:
    """By the name of a part how much its quantization alone changes the predictions: the task's divergence.

    Linear layers and convolutions of a part read their inputs on a uint8 grid between the extremes of the
    calibration images, and have int8 weights with one scale an output channel.
    """
    images = calibration_images(context, PART_IMAGES)
    batch = torch.cat([batch for batch, _ in image_batches(images, context)])
    task = task_of(model)
    with torch.no_grad():
        target, harms = model(batch), {}
        for name, part in parts.items():
            check_deadline(context, "measuring sensitivities")
            with _fake_quantized(part):
                harms[name] = float(task.divergence(model(batch), target))
    return harms


@contextmanager
def _fake_quantized(part: nn.Module) -> Iterator[None]:
    layers = [module for module in part.modules() if isinstance(module, QUANTIZED_BY_TOOLS)]
    weights = [layer.weight.detach().clone() for layer in layers]
    handles = [layer.register_forward_pre_hook(_round_input) for layer in layers]
    for layer in layers:
        axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0  # where the output channels are
        flat = layer.weight.detach().transpose(0, axis).flatten(1).abs().amax(1).clamp_min(1e-8) / 127
        zeros = torch.zeros_like(flat, dtype=torch.int32)
        layer.weight.data = torch.fake_quantize_per_channel_affine(layer.weight.detach(), flat, zeros, axis, -127, 127)
    try:
        yield
    finally:
        for handle, layer, weight in zip(handles, layers, weights, strict=True):
            handle.remove()
            layer.weight.data = weight


def _round_input(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    step, zero = activation_grid(float(inputs[0].min()), float(inputs[0].max()))
    return (torch.fake_quantize_per_tensor_affine(inputs[0], step, zero, 0, ACTIVATION_LEVELS), *inputs[1:])


def _harm(
    model: nn.Module, inside: set[int], quantized: dict[int, QuantLinear], batch: torch.Tensor, target: torch.Tensor
) -> float:
    found = linear_layers(model)
    places = [(parent, name, layer) for parent, name, layer in found if id(layer) in inside and id(layer) in quantized]
    for parent, name, layer in places:
        setattr(parent, name, quantized[id(layer)].eval())
    try:
        output = model(batch)
    finally:
        for parent, name, layer in places:
            setattr(parent, name, layer)
    return float(task_of(model).divergence(output, target))
