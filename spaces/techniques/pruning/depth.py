"""Depth pruning: fewer blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from sousvit.errors import UserError
from sousvit.spaces.context import Context
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.needs import Needs
from sousvit.spaces.shape import VitShape
from sousvit.spaces.technique import Choices, ModelTechnique, Stage, StepConfig

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer
    from torch import nn


class PruneDepthConfig(StepConfig):
    """``drop`` blocks are removed; ``compensate`` lets the block before a gap stand in for what is missing."""

    drop: int = Field(default=1, ge=0, le=10_000)
    compensate: bool = True


class PruneDepth(ModelTechnique):
    """Removal of the blocks whose absence changes the predictions least, one after the other.

    The residual update of a removed run of blocks is regressed on the MLP units of the kept block before it and
    folded into that block's ``fc2``; a run at the very front has no block before it and is not repaired.
    """

    name: ClassVar[str] = "prune_depth"
    stage: ClassVar[Stage] = Stage.STRUCTURE
    config: ClassVar[type[StepConfig]] = PruneDepthConfig
    needs: ClassVar[Needs] = Needs(equal_blocks=True)
    summary: ClassVar[str] = "remove the least needed blocks, with closed-form repair from calibration images"
    source: ClassVar[str] = "block removal as in ShortGPT (arXiv 2403.03853), judged by logits; CORP (2602.05243)"

    def choices(self, shape: VitShape) -> Choices:
        """None to three quarters of the blocks."""
        most = min(shape.depth - 1, shape.depth * 3 // 4)
        step = max(1, shape.depth // 8)
        return {"drop": tuple(range(0, most + 1, step))}

    def unmet_need(self, shape: VitShape) -> str | None:
        if shape.depth < 2:
            return "only one block"
        if any(any(block.ranks) for block in shape.blocks):
            return "layers that are factored already"
        return None if len(set(shape.blocks)) == 1 else "blocks of different widths"

    def is_identity(self, config: Any, shape: VitShape) -> bool:
        return bool(config.drop == 0)

    def nested(self, config: Any) -> Any:
        """Blocks go in the order that the elastic base was trained for."""
        return config

    def reshape(self, shape: VitShape, config: Any) -> VitShape:
        if config.drop >= shape.depth:
            raise UserError("a model keeps at least one block", f"drop {config.drop} of {shape.depth}", "drop fewer")
        return replace(shape, blocks=shape.blocks[: shape.depth - config.drop])

    def apply(self, model: VisionTransformer, config: Any, context: Context) -> nn.Module:
        from torch import nn

        from sousvit.spaces.techniques.pruning.blocks import least_needed, repair_gaps

        shape = vit_shape(model)
        self.reshape(shape, config)
        model.eval()
        if config.drop == 0:
            return model
        if context.nested is not None:
            kept = remaining(shape.depth, context.nested["blocks"][: config.drop])
        elif context.calibration is None:
            kept = list(range(shape.depth - config.drop))
        else:
            kept = remaining(shape.depth, least_needed(model, config.drop, context))
        if context.calibration is not None and config.compensate:
            repair_gaps(model, kept, context)
        model.blocks = nn.Sequential(*(model.blocks[index] for index in kept))
        model.feature_info = model.feature_info[: len(kept)]
        return model


def remaining(depth: int, dropped: Sequence[int]) -> list[int]:
    """Indices of the blocks that stay, in order."""
    return [index for index in range(depth) if index not in dropped]
