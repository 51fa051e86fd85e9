"""Fewer attention heads in every block."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from sousvit.spaces.layers.low_rank import LowRankLinear
from sousvit.spaces.shape import BlockShape, VitShape
from sousvit.spaces.technique import Choices, Stage, StepConfig
from sousvit.spaces.techniques.pruning.width import WidthPruning, WidthPruningConfig, keep_outputs, replace_reader

if TYPE_CHECKING:
    from timm.models.vision_transformer import Block

#: A search tries at most about this many head counts.
MAX_CHOICES = 6


class PruneHeads(WidthPruning):
    """Removes whole heads, predicts what they gave from the others, and folds the prediction into ``proj``."""

    name: ClassVar[str] = "prune_heads"
    stage: ClassVar[Stage] = Stage.STRUCTURE
    rank: ClassVar[int] = 2
    config: ClassVar[type[StepConfig]] = WidthPruningConfig
    summary: ClassVar[str] = "remove attention heads, with closed-form repair from calibration images"
    source: ClassVar[str] = "Michel et al. (arXiv 1905.10650); CORP (2602.05243); Taylor importance (1906.10771)"

    def choices(self, shape: VitShape) -> Choices:
        """Head counts from a quarter to all."""
        heads = max(block.heads for block in shape.blocks)
        counts = range(max(1, -(-heads // 4)), heads + 1)
        step = -(-len(counts) // MAX_CHOICES)
        shares = tuple(round(count / heads, 4) for count in sorted(counts[::-step]))
        importance = ("activation", "taylor", "gates", "magnitude")
        return {"keep": shares, "importance": importance, "allocation": ("uniform", "global")}

    def unmet_need(self, shape: VitShape) -> str | None:
        return None if any(block.heads > 1 for block in shape.blocks) else "only one head a block"

    def num_units(self, block: BlockShape) -> int:
        """Heads."""
        return block.heads

    def num_kept(self, block: BlockShape, keep: float) -> int:
        """The nearest number of heads, at least 1."""
        return max(1, round(keep * block.heads))

    def resized(self, block: BlockShape, units: int) -> BlockShape:
        return replace(block, heads=units)

    def output(self, block: Block) -> tuple[nn.Linear | LowRankLinear, nn.Module]:
        """``attn.proj``."""
        return block.attn.proj, block.ls1

    def branch(self, block: Block, tokens: torch.Tensor) -> torch.Tensor:
        """Attention only."""
        out: torch.Tensor = block.attn(block.norm1(tokens))
        return out

    def weight_norms(self, block: Block) -> torch.Tensor:
        """Norms of each head's value projection."""
        value = block.attn.qkv.weight.detach().chunk(3)[2]
        return value.unflatten(0, (block.attn.num_heads, -1)).square().sum((1, 2)).sqrt()

    def narrow(self, block: Block, kept: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Slice ``qkv``, replace ``proj``, and fix what timm's attention remembers of its size."""
        attention = block.attn
        channels = torch.arange(attention.qkv.out_features).reshape(3, attention.num_heads, attention.head_dim)
        keep_outputs(attention, "qkv", channels[:, kept].flatten())
        replace_reader(attention, "proj", weight, bias)
        attention.num_heads = len(kept)
        attention.attn_dim = len(kept) * attention.head_dim  # head_dim and scale stay: heads are removed whole
