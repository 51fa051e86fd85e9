"""Token merging (ToMe): similar tokens become one, a few in every block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from sousvit.errors import UserError
from sousvit.spaces.context import Context
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.needs import Needs
from sousvit.spaces.shape import VitShape
from sousvit.spaces.technique import Choices, ModelTechnique, Stage, StepConfig
from sousvit.spaces.techniques.tokens.pooling import unsupported_pooling

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer
    from torch import nn

#: Shares of the patch tokens that a search may leave.
KEEPS = (0.25, 0.4, 0.55, 0.7, 0.85, 1.0)


class TomeConfig(StepConfig):
    """``keep`` is the share of patch tokens left after the last block.

    ``schedule`` spreads the merges evenly over the blocks, or linearly decreasing to none in the last (faster, less
    accurate at the same ``keep``).
    """

    keep: float = Field(default=0.55, gt=0, le=1)
    schedule: Literal["constant", "decreasing"] = "constant"


class Tome(ModelTechnique):
    """Merging of similar patch tokens between attention and MLP; class and other prefix tokens are never merged."""

    name: ClassVar[str] = "tome"
    stage: ClassVar[Stage] = Stage.TOKENS
    config: ClassVar[type[StepConfig]] = TomeConfig
    needs: ClassVar[Needs] = Needs(images=False, conflicts=frozenset({"evit"}))
    summary: ClassVar[str] = "merge similar tokens, a few in every block"
    source: ClassVar[str] = "ToMe (arXiv 2210.09461)"

    def choices(self, shape: VitShape) -> Choices:
        """The shares that the depth can reach."""
        reachable = tuple(keep for keep in KEEPS if _reachable(shape, keep))
        return {"keep": reachable, "schedule": ("constant", "decreasing")}

    def unmet_need(self, shape: VitShape) -> str | None:
        return unsupported_pooling(shape)

    def is_identity(self, config: Any, shape: VitShape) -> bool:
        return max(1, round(config.keep * shape.num_patches)) == shape.num_patches

    def nested(self, config: Any) -> Any:
        """It touches no weights."""
        return config

    def reshape(self, shape: VitShape, config: Any) -> VitShape:
        if self.is_identity(config, shape):
            return shape
        counts = patches_left(shape.num_patches, shape.depth, config.keep, config.schedule)
        macs, before = [], shape.num_patches
        for block, after in zip(shape.blocks, counts, strict=True):
            macs.append(((before + 1) // 2) * (before // 2) * block.head_dim if after < before else 0)
            before = after
        return shape.with_tokens([count + shape.num_prefix_tokens for count in counts], macs)

    def apply(self, model: VisionTransformer, config: Any, context: Context) -> nn.Module:
        from sousvit.spaces.layers.token_blocks import MergingBlocks

        shape = vit_shape(model)
        self.reshape(shape, config)
        if not self.is_identity(config, shape):
            counts = patches_left(shape.num_patches, shape.depth, config.keep, config.schedule)
            model.blocks = MergingBlocks(model, counts)
            model.set_grad_checkpointing(False)  # it would call the blocks around their container
        return model.eval()


def patches_left(patches: int, depth: int, keep: float, schedule: str) -> tuple[int, ...]:
    """Patch tokens left after each block's attention; a block merges at most half of its own.

    Raises:
        UserError: so few cannot be reached in ``depth`` halvings.
    """
    total = patches - max(1, round(keep * patches))
    weights = [1.0] * depth if schedule == "constant" else [depth - index - 0.5 for index in range(depth)]
    left, current, wanted = [], patches, 0.0
    for weight in weights:
        wanted += total * weight / sum(weights)
        # What an earlier block could not merge is made up for as soon as possible.
        current -= min(current // 2, current - (patches - round(wanted)))
        left.append(current)
    if current != patches - total:
        raise UserError(
            "each block merges at most half of its patches", f"keep {keep:g} in {depth} blocks", "raise tome's keep"
        )
    return tuple(left)


def _reachable(shape: VitShape, keep: float) -> bool:
    try:
        for schedule in ("constant", "decreasing"):
            patches_left(shape.num_patches, shape.depth, keep, schedule)
    except UserError:
        return False
    return True
