"""Products of attention heads at a lower rank: queries with keys, and values with the output projection."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from sousvit.spaces.calibration.repair import Moments
from sousvit.spaces.calibration.stream import new_linear
from sousvit.spaces.layers.low_rank import whitening

if TYPE_CHECKING:
    from timm.layers import Attention


def with_constant(moments: Moments) -> torch.Tensor:
    """Second moment ``[inputs + 1, inputs + 1]`` of the inputs with a 1 appended."""
    mean = moments.sum_x / moments.count
    top = torch.cat([moments.xx / moments.count, mean[:, None]], dim=1)
    return torch.cat([top, torch.cat([mean, mean.new_ones(1)])[None]])


@torch.no_grad()
def narrow_heads(attention: Attention, width: int, moment: torch.Tensor | None) -> None:
    """Keep ``width`` channels a head.

    Args:
        attention: with query, key and value biases.
        width: at most ``head_dim``.
        moment: of the input with a constant, or None to keep the first channels.
    """
    heads, old = attention.num_heads, attention.head_dim
    augmented = torch.cat([attention.qkv.weight, attention.qkv.bias[:, None]], dim=1).double()
    parts = augmented.unflatten(0, (3, heads, old))  # [3, heads, old, inputs + 1]
    output = attention.proj.weight.double().unflatten(1, (heads, old))  # [outputs, heads, old]
    # The scores are divided by the root of the new width, so queries take the difference.
    stretch = math.sqrt(width / old)
    if moment is None:
        q, k, v = (part[:, :width] for part in parts)
        q, out = q * stretch, output[:, :, :width]
    else:
        root, inverse = whitening(moment)
        q, k = _split(parts[0].mT @ parts[1], root, inverse, width, stretch)
        v, out = _split_values(parts[2], output, root, inverse, width)
    joined = torch.cat([part.flatten(0, 1) for part in (q, k, v)]).to(attention.qkv.weight.dtype)
    attention.qkv = new_linear(attention.qkv, joined[:, :-1], joined[:, -1])
    attention.proj = new_linear(attention.proj, out.flatten(1).to(joined.dtype), attention.proj.bias)
    attention.head_dim, attention.attn_dim, attention.scale = width, heads * width, width**-0.5


def _split(
    scores: torch.Tensor, root: torch.Tensor, inverse: torch.Tensor, width: int, stretch: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys ``[heads, width, inputs + 1]`` whose products are nearest to ``scores [heads, in, in]``."""
    u, s, vt = torch.linalg.svd(root.T @ scores @ root)
    scale = s[:, :width, None].sqrt()
    queries = scale * u[:, :, :width].mT @ inverse
    keys = scale * vt[:, :width] @ inverse
    return queries * stretch, keys


def _split_values(
    values: torch.Tensor, output: torch.Tensor, root: torch.Tensor, inverse: torch.Tensor, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values ``[heads, width, inputs + 1]`` and their output weights ``[outputs, heads, width]``."""
    product = output.transpose(0, 1) @ values  # [heads, outputs, inputs + 1]
    u, s, vt = torch.linalg.svd(product @ root, full_matrices=False)
    scale = s[:, :width].sqrt()
    return scale[:, :, None] * vt[:, :width] @ inverse, (u[:, :, :width] * scale[:, None]).transpose(0, 1)
