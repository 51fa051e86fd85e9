"""Linear layers as two thin ones."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from sousvit.spaces.calibration.repair import Moments
from sousvit.spaces.calibration.stream import TokenStream
from sousvit.spaces.context import Context
from sousvit.spaces.layers.low_rank import break_even, energies, factored, rank_of
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.shape import BlockShape, VitShape
from sousvit.spaces.technique import Choices, ModelTechnique, Stage, StepConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from timm.models.vision_transformer import Block, VisionTransformer

#: Places of the four layers in :attr:`BlockShape.ranks`, by what a search may choose.
PARTS = {"all": (0, 1, 2, 3), "attention": (0, 1), "mlp": (2, 3)}
MULTIPLE = 8


class LowRankConfig(StepConfig):
    """``keep``: share of the weights that stay. ``layers``: which linear layers. ``method``: plain SVD, or whitened by
    the layers' inputs. ``allocation``: the same rank in every block, or ranks moved to the blocks whose outputs need
    them, with the same sum.
    """

    keep: float = Field(default=0.6, gt=0, le=1)
    layers: Literal["all", "attention", "mlp"] = "mlp"
    method: Literal["svd", "whitened"] = "whitened"
    allocation: Literal["uniform", "sensitivity"] = "uniform"


class LowRank(ModelTechnique):
    """Factors linear layers block by block; every block reads what the factored earlier ones give."""

    name: ClassVar[str] = "low_rank"
    stage: ClassVar[Stage] = Stage.STRUCTURE
    config: ClassVar[type[StepConfig]] = LowRankConfig
    summary: ClassVar[str] = "factor linear layers by (activation-aware) SVD; before or after pruning"
    source: ClassVar[str] = "SVD-LLM (arXiv 2403.07378); sensitivity by whitened energies as in FLAR-SVD"
    rank: ClassVar[int] = 1
    movable_past: ClassVar[frozenset[str]] = frozenset({"prune_heads", "prune_mlp"})

    def choices(self, shape: VitShape) -> Choices:
        methods, allocations = ("whitened", "svd"), ("uniform", "sensitivity")
        return {
            "keep": (0.4, 0.6, 0.8, 1.0), "layers": ("all", "attention", "mlp"), "method": methods,
            "allocation": allocations,
        }  # fmt: skip

    def unmet_need(self, shape: VitShape) -> str | None:
        return "layers that are factored already" if any(any(block.ranks) for block in shape.blocks) else None

    def shapes_by_data(self, config: Any) -> bool:
        return bool(config.allocation == "sensitivity")

    def is_identity(self, config: Any, shape: VitShape) -> bool:
        return self.reshape(shape, config) == shape

    def reshape(self, shape: VitShape, config: Any) -> VitShape:
        if config.keep == 1:
            return shape
        return shape.with_blocks(
            replace(block, ranks=uniform_ranks(block, shape.embed_dim, config)) for block in shape.blocks
        )

    def apply(self, model: VisionTransformer, config: Any, context: Context) -> nn.Module:
        shape = vit_shape(model)
        target = self.reshape(shape, config)
        if target == shape:
            return model.eval()
        model.eval()
        ranks = [block.ranks for block in target.blocks]
        if context.calibration is None:
            ranks = context.decided(self.name, ranks)
            for block, block_ranks in zip(model.blocks, ranks, strict=True):
                _factor_block(block, block_ranks, [None] * 4)
            return model
        if config.allocation == "sensitivity":
            ranks = context.decide(self.name, _sensitive_ranks(model, config, context, ranks))
        stream = TokenStream(model, context, max(block.mlp.fc2.in_features for block in model.blocks))
        for block, block_ranks in zip(model.blocks, ranks, strict=True):
            moments = _block_moments(stream, block) if config.method == "whitened" else [None] * 4
            _factor_block(block, block_ranks, moments)
            stream.advance(block)
        return model


def uniform_ranks(block: BlockShape, embed_dim: int, config: LowRankConfig) -> tuple[int, int, int, int]:
    """Rank of each layer, 0 where factoring saves nothing."""
    sizes = (
        (embed_dim, 3 * block.attn_dim),
        (block.attn_dim, embed_dim),
        (embed_dim, block.mlp),
        (block.mlp, embed_dim),
    )
    chosen = PARTS[config.layers]
    qkv, proj, fc1, fc2 = (
        break_even(*size, config.keep, MULTIPLE) if place in chosen else 0 for place, size in enumerate(sizes)
    )
    return qkv, proj, fc1, fc2


def layers_of(block: Block) -> list[nn.Linear]:
    """``qkv, proj, fc1, fc2``."""
    return [block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2]


def _factor_block(block: Block, ranks: Sequence[int], moments: Sequence[Moments | None]) -> None:
    owners = ((block.attn, "qkv"), (block.attn, "proj"), (block.mlp, "fc1"), (block.mlp, "fc2"))
    for (owner, name), rank, moment in zip(owners, ranks, moments, strict=True):
        if rank:
            setattr(owner, name, factored(getattr(owner, name), rank, moment).eval())


def _block_moments(stream: TokenStream, block: Block) -> list[Moments | None]:
    return [stream.moments(partial(_run, block), layer) for layer in layers_of(block)]


def _run(block: Block, tokens: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = block(tokens)
    return out


def _sensitive_ranks(
    model: VisionTransformer, config: LowRankConfig, context: Context, uniform: Sequence[Sequence[int]]
) -> list[list[int]]:
    """Ranks in steps of 8: of each kind of layer, those steps stay that keep most of their block's output energy.

    Energies are relative to the layer's whole output, so that no block wins by its scale. Every layer keeps a step.
    """
    stream = TokenStream(model, context, max(block.mlp.fc2.in_features for block in model.blocks))
    relative: list[list[torch.Tensor]] = []
    for block in model.blocks:
        moments = _block_moments(stream, block) if config.method == "whitened" else [None] * 4
        found = [_energies(layer, moment) for layer, moment in zip(layers_of(block), moments, strict=True)]
        relative.append([energy / energy.sum().clamp_min(1e-30) for energy in found])
        stream.advance(block)
    ranks = [list(row) for row in uniform]
    for place in range(4):
        total = sum(row[place] for row in uniform) // MULTIPLE
        if total == 0:
            continue
        most = min(_largest_rank(layers_of(block)[place]) for block in model.blocks)
        _allocate(ranks, place, total, [row[place] for row in relative], most // MULTIPLE)
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
        (float(energy[step * MULTIPLE : (step + 1) * MULTIPLE].sum()), index)
        for index, energy in enumerate(relative)
        for step in range(1, most)
    ]
    for _, index in sorted(gains, reverse=True)[: total - len(counts)]:
        counts[index] += 1
    for index, count in enumerate(counts):
        ranks[index][place] = count * MULTIPLE


def low_rank_of(block: Block) -> tuple[int, int, int, int]:
    """Ranks of a real block's layers."""
    qkv, proj, fc1, fc2 = (rank_of(layer) for layer in layers_of(block))
    return qkv, proj, fc1, fc2
