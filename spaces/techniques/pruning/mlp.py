"""MLP pruning: fewer hidden units in every block."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from sousvit.spaces.shape import BlockShape, VitShape
from sousvit.spaces.technique import Choices, Stage, StepConfig
from sousvit.spaces.techniques.pruning.width import WidthPruning, WidthPruningConfig

if TYPE_CHECKING:
    from sousvit.spaces.techniques.pruning.units import Units

#: Hidden widths are multiples of this, which vector units and int8 kernels like.
MULTIPLE = 8


class PruneMlp(WidthPruning):
    """Removal of hidden units; what they gave is predicted from the others, and the prediction folded into ``fc2``."""

    name: ClassVar[str] = "prune_mlp"
    stage: ClassVar[Stage] = Stage.STRUCTURE
    rank: ClassVar[int] = 2
    config: ClassVar[type[StepConfig]] = WidthPruningConfig
    summary: ClassVar[str] = "remove MLP hidden units, with closed-form repair from calibration images"
    multiple: ClassVar[int] = MULTIPLE
    source: ClassVar[str] = "CORP (arXiv 2602.05243); Taylor importance (Molchanov et al., 1906.10771)"

    def choices(self, shape: VitShape) -> Choices:
        return {
            "keep": (0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0),
            "importance": ("activation", "taylor", "gates", "magnitude"),
            "allocation": ("uniform", "global"),
        }

    def units(self) -> Units:
        from sousvit.spaces.techniques.pruning.units import MlpUnits

        return MlpUnits()

    def num_kept(self, block: BlockShape, keep: float) -> int:
        """The nearest multiple of 8 that the block has, at least 8; all units for ``keep`` 1."""
        if keep == 1:
            return block.mlp
        return min(block.mlp, max(MULTIPLE, round(keep * block.mlp / MULTIPLE) * MULTIPLE))

    def resized(self, block: BlockShape, units: int) -> BlockShape:
        return replace(block, mlp=units)
