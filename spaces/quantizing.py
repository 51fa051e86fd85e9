"""Quantizing a model after training: ranges, smoothing, and blocks that stay float because they are too sensitive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from sousvit.spaces.calibration import calibration_images, check_deadline, image_batches
from sousvit.spaces.merging import merged
from sousvit.spaces.quantized import SKELETON_RANGE, WEIGHT_LEVELS, QuantLinear, linear_layers, replace_layers
from sousvit.spaces.ranges import Clip, InputSample, activation_range, sample_inputs, weight_scales
from sousvit.spaces.smoothing import Smoothing, norm_readers, smooth_pair
from sousvit.spaces.tasks.task import task_of

if TYPE_CHECKING:
    from sousvit.spaces.technique import Context

#: Images that sensitivities are measured on.
SENSITIVITY_IMAGES = 64


@dataclass(frozen=True)
class QuantPlan:
    """How to quantize.

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

    Norms that deployment folds into layers are folded first (then into a copy), so that those layers are found.

    Without calibration images the ranges are made up, and the first blocks stay float: only speed and size count then.

    Raises:
        TrialError: calibration failed.
    """
    levels, model = WEIGHT_LEVELS[plan.weights], merged(model)
    if context.calibration is None:
        skipped = _layers_of_blocks(model, list(range(plan.float_blocks)))
        replace_layers(model, lambda layer: None if id(layer) in skipped else QuantLinear(layer, levels))
        return model.eval()
    layers = [layer for _, _, layer in linear_layers(model)]
    samples = dict(zip(map(id, layers), sample_inputs(model.eval(), layers, context), strict=True))
    for norm, reader in norm_readers(model):
        if id(reader) in samples:
            samples[id(reader)] = smooth_pair(norm, reader, samples[id(reader)], plan.smoothing, plan.strength)
    quantized = {id(layer): _quantized(layer, samples[id(layer)], levels, plan.clip) for layer in layers}
    skipped = set()
    if plan.float_blocks:
        order = sensitive_blocks(model, quantized, context)
        skipped = _layers_of_blocks(model, order[: plan.float_blocks])
    replace_layers(model, lambda layer: None if id(layer) in skipped else quantized[id(layer)])
    return model.eval()


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
    images = calibration_images(context, SENSITIVITY_IMAGES)
    batch = torch.cat([batch for batch, _ in image_batches(images, context)])
    target = model(batch)
    harms = []
    for index in range(len(list(getattr(model, "blocks", ())))):
        check_deadline(context, "measuring sensitivities")
        inside = _layers_of_blocks(model, [index])
        harms.append(_harm(model, inside, quantized, batch, target))
    return sorted(range(len(harms)), key=lambda index: -harms[index])


def _harm(
    model: nn.Module, inside: set[int], quantized: dict[int, QuantLinear], batch: torch.Tensor, target: torch.Tensor
) -> float:
    places = [(parent, name, layer) for parent, name, layer in linear_layers(model) if id(layer) in inside]
    for parent, name, layer in places:
        setattr(parent, name, quantized[id(layer)].eval())
    try:
        output = model(batch)
    finally:
        for parent, name, layer in places:
            setattr(parent, name, layer)
    return float(task_of(model).divergence(output, target))
