"""Smoothing before quantization: the spread of activations moves into weights, and the float model computes the same.

Outliers of a few channels after a LayerNorm ruin a scale that all channels share. Both ways change the norm's affine
part and the layer that reads it:

* ``smooth`` divides channel j by ``max|x_j|^a / max|W_j|^(1-a)`` (SmoothQuant, Xiao et al., arXiv 2211.10438);
* ``reparam`` also shifts every channel to the middle of its range and gives all the same width (the scale
  reparameterisation of RepQ-ViT, Li et al., arXiv 2212.08254).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn

from sousvit.spaces.calibration.ranges import InputSample
from sousvit.spaces.layers.low_rank import LowRankLinear

Smoothing = Literal["none", "smooth", "reparam"]

_SMALLEST = 1e-5


def norm_readers(model: nn.Module) -> Iterator[tuple[nn.LayerNorm, nn.Linear]]:
    """Pairs (LayerNorm, the only linear layer that reads it) of a plain ViT's blocks."""
    for block in getattr(model, "blocks", ()):
        for norm_name, branch_name, reader_name in (("norm1", "attn", "qkv"), ("norm2", "mlp", "fc1")):
            norm = getattr(block, norm_name, None)
            reader = _first_linear(getattr(getattr(block, branch_name, None), reader_name, None))
            if isinstance(norm, nn.LayerNorm) and norm.weight is not None and reader is not None:
                yield norm, reader


def _first_linear(module: nn.Module | None) -> nn.Linear | None:
    if isinstance(module, LowRankLinear):
        module = module.down
    if type(module) is nn.Linear:
        return module
    first = next(iter(module.children()), None) if isinstance(module, nn.Sequential) else None
    return first if type(first) is nn.Linear else None


@torch.no_grad()
def smooth_pair(
    norm: nn.LayerNorm, reader: nn.Linear, sample: InputSample, how: Smoothing, strength: float
) -> InputSample:
    """Rescale one pair in place; return the sample of what the reader reads now.

    Args:
        norm: with weight and bias.
        reader: reads the norm's output and nothing else does.
        sample: of the reader's input.
        how: ``smooth`` or ``reparam``; ``none`` changes nothing.
        strength: SmoothQuant's exponent a in [0, 1].
    """
    if how == "none":
        return sample
    if how == "smooth":
        activation = torch.maximum(sample.high.abs(), sample.low.abs()).clamp_min(_SMALLEST)
        weight = reader.weight.abs().amax(0).clamp_min(_SMALLEST)
        scale = activation**strength / weight ** (1 - strength)
        scale = scale / scale.log().mean().exp()
        shift = torch.zeros_like(scale)
    else:
        half = ((sample.high - sample.low) / 2).clamp_min(_SMALLEST)
        scale = half / half.mean()
        shift = (sample.high + sample.low) / 2
    if reader.bias is None or norm.bias is None:
        shift = torch.zeros_like(shift)
    if reader.bias is not None:
        reader.bias.add_(reader.weight @ shift)
    if norm.bias is not None:
        norm.bias.sub_(shift).div_(scale)
    norm.weight.div_(scale)
    reader.weight.mul_(scale)
    return sample.affine(shift, scale)
