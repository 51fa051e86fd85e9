"""Clipping ranges for quantization, from calibration images: minimum and maximum, percentiles, or least squared error.

A sample of each layer's input rows is kept, with the exact extremes of every channel. The ranges of a layer that
smoothing rescales follow from the same sample, so the model runs once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from sousvit.errors import TrialError
from sousvit.spaces.calibration.stream import calibrating, captured_inputs, enough_images, image_batches
from sousvit.spaces.layers.quantized import ACTIVATION_LEVELS, activation_grid

if TYPE_CHECKING:
    from sousvit.spaces.context import Context

Clip = Literal["minmax", "percentile", "mse"]

#: Images that ranges are taken from, at least of large ones; of a batch; and input rows kept of each layer.
RANGE_IMAGES, LEAST_RANGE, RANGE_BATCH = 256, 64, 32
SAMPLE_ROWS = 4096
#: Share of the values outside the range, on each side, under ``percentile``.
TAIL = 1e-4
#: Shares of the full range that ``mse`` tries.
SHRINKS = tuple(1 - 0.03 * step for step in range(25))


@dataclass
class InputSample:
    """The inputs of one layer on the calibration images.

    Attributes:
        rows: ``[rows, channels]``, a sample.
        low: exact minimum per channel.
        high: exact maximum per channel.
    """

    rows: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor

    def affine(self, shift: torch.Tensor, scale: torch.Tensor) -> InputSample:
        """The sample of ``(x - shift) / scale`` per channel, ``scale`` positive."""
        return InputSample(*((values - shift) / scale for values in (self.rows, self.low, self.high)))


def sample_inputs(model: nn.Module, layers: Sequence[nn.Module], context: Context) -> list[InputSample]:
    """Inputs of ``layers`` while ``model`` reads calibration images.

    Raises:
        TrialError: no images, or activations that are not finite.
    """
    images = enough_images(context, RANGE_IMAGES, LEAST_RANGE)
    kept: list[list[InputSample]] = [[] for _ in layers]
    generator = torch.Generator().manual_seed(context.seed)
    share = max(1, SAMPLE_ROWS // -(-len(images) // RANGE_BATCH))
    with calibrating(), captured_inputs(layers) as found:
        for batch, _ in image_batches(images, context, RANGE_BATCH):
            model(batch)
            for index in range(len(layers)):
                if index not in found:
                    raise TrialError("a layer to quantize takes no part in the forward pass")
                rows = found[index].detach().float().reshape(-1, found[index].shape[-1])
                if not torch.isfinite(rows).all():
                    raise TrialError("calibration activations are not finite")
                chosen = torch.randperm(len(rows), generator=generator)[:share]
                kept[index].append(InputSample(rows[chosen].clone(), rows.amin(0), rows.amax(0)))
    return [
        InputSample(
            torch.cat([part.rows for part in parts]),
            torch.stack([part.low for part in parts]).amin(0),
            torch.stack([part.high for part in parts]).amax(0),
        )
        for parts in kept
    ]


def activation_range(sample: InputSample, clip: Clip) -> tuple[float, float]:
    """(low, high) of the whole input, which has one scale; 0 lies between them."""
    low, high = min(0.0, float(sample.low.min())), max(0.0, float(sample.high.max()))
    if clip == "minmax":
        return low, high
    values = sample.rows.flatten()
    if clip == "percentile":
        ordered = values.sort().values
        outside = int(TAIL * len(ordered))
        return min(0.0, float(ordered[outside])), max(0.0, float(ordered[-1 - outside]))
    errors = [_grid_error(values, low * shrink, high * shrink) for shrink in SHRINKS]
    best = SHRINKS[min(range(len(errors)), key=errors.__getitem__)]
    return low * best, high * best


def _grid_error(values: torch.Tensor, low: float, high: float) -> float:
    step, zero = activation_grid(low, high)
    quantized = torch.fake_quantize_per_tensor_affine(values, step, zero, 0, ACTIVATION_LEVELS)
    return float((quantized - values).square().sum(dtype=torch.float64))


def weight_scales(weight: torch.Tensor, levels: int, clip: Clip) -> torch.Tensor:
    """Symmetric scale ``[outputs]`` of each row of ``weight [outputs, inputs]``.

    Percentiles mean little in a row of a few hundred weights: ``percentile`` takes the extremes there.
    """
    full = weight.detach().abs().amax(1).clamp_min(1e-8) / levels
    if clip != "mse":
        return full
    best, least = full.clone(), torch.full_like(full, torch.inf)
    for shrink in SHRINKS:
        scale = full * shrink
        rounded = (weight / scale[:, None]).round().clamp(-levels, levels) * scale[:, None]
        error = (rounded - weight).square().sum(1)
        better = error < least
        best, least = torch.where(better, scale, best), torch.where(better, error, least)
    return best
