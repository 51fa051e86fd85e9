"""Head pruning: fewer attention heads in every block."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from sousvit.spaces.shape import BlockShape, VitShape
from sousvit.spaces.technique import Choices, Stage, StepConfig
from sousvit.spaces.techniques.pruning.width import WidthPruning, WidthPruningConfig

if TYPE_CHECKING:
    from sousvit.spaces.techniques.pruning.units import Units

#: A search tries at most about this many head counts.
MAX_CHOICES = 6


class PruneHeads(WidthPruning):
    """Removal of whole heads; what they gave is predicted from the others, and the prediction folded into ``proj``."""

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

    def units(self) -> Units:
        from sousvit.spaces.techniques.pruning.units import Heads

        return Heads()

    def num_kept(self, block: BlockShape, keep: float) -> int:
        """The nearest number of heads, at least 1."""
        return max(1, round(keep * block.heads))

    def resized(self, block: BlockShape, units: int) -> BlockShape:
        return replace(block, heads=units)
