"""Ranks of a block's four linear layers: factoring at given ones, and moving them to the blocks that need them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from sousvit.spaces.calibration.repair import Moments
from sousvit.spaces.calibration.stream import TokenStream
from sousvit.spaces.layers.low_rank import energies, factored

if TYPE_CHECKING:
    from timm.models.vision_transformer import Block, VisionTransformer

    from sousvit.spaces.context import Context

#: Ranks are moved between blocks in steps of so many.
STEP = 8


def layers_of(block: Block) -> list[nn.Linear]:
    """``qkv, proj, fc1, fc2``."""
    return [block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2]


def factor_block(block: Block, ranks: Sequence[int], moments: Sequence[Moments | None]) -> None:
    """Factor the layers of ``block`` at their ``ranks``, but for those of rank 0."""
    owners = ((block.attn, "qkv"), (block.attn, "proj"), (block.mlp, "fc1"), (block.mlp, "fc2"))
    for (owner, name), rank, moment in zip(owners, ranks, moments, strict=True):
        if rank:
            setattr(owner, name, factored(getattr(owner, name), rank, moment).eval())


def sensitive_ranks(
    model: VisionTransformer, method: str, context: Context, uniform: Sequence[Sequence[int]]
) -> list[list[int]]:
    """Ranks in steps of 8: of each kind of layer, those steps stay that keep most of their block's output energy.

    Energies are relative to the layer's whole output, so that no block wins by its scale. Every layer keeps a step.
    """
    stream = TokenStream(model, context, max(block.mlp.fc2.in_features for block in model.blocks))
    relative: list[list[torch.Tensor]] = []
    for block in model.blocks:
        layers = layers_of(block)
        moments = stream.through(block, layers) if method == "whitened" else [None] * 4
        found = [_energies(layer, moment) for layer, moment in zip(layers, moments, strict=True)]
        relative.append([energy / energy.sum().clamp_min(1e-30) for energy in found])
    ranks = [list(row) for row in uniform]
    for place in range(4):
        total = sum(row[place] for row in uniform) // STEP
        if total == 0:
            continue
        most = min(_largest_rank(layers_of(block)[place]) for block in model.blocks)
        _allocate(ranks, place, total, [row[place] for row in relative], most // STEP)
    return ranks


def _energies(layer: nn.Linear, moments: Moments | None) -> torch.Tensor:
    if moments is None:
        return energies(layer.weight, None)
    return energies(layer.weight, moments.covariance() if layer.bias is not None else moments.xx / moments.count)


def _largest_rank(layer: nn.Linear) -> int:
    """The largest rank whose two factors hold fewer weights than the full layer."""
    return (layer.in_features * layer.out_features - 1) // (layer.in_features + layer.out_features)


def _allocate(ranks: list[list[int]], place: int, total: int, relative: Sequence[torch.Tensor], most: int) -> None:
    """Give ``total`` steps of 8 ranks to the blocks by the energy that each step adds; at most ``most`` to one."""
    counts = [1] * len(relative)
    gains = [
        (float(energy[step * STEP : (step + 1) * STEP].sum()), index)
        for index, energy in enumerate(relative)
        for step in range(1, most)
    ]
    for _, index in sorted(gains, reverse=True)[: total - len(counts)]:
        counts[index] += 1
    for index, count in enumerate(counts):
        ranks[index][place] = count * STEP
