"""Attentive tokens (EViT): at three depths, tokens that the class token ignores become one."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from sousvit.spaces.context import Context
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.needs import Needs
from sousvit.spaces.shape import VitShape
from sousvit.spaces.technique import Choices, ModelTechnique, Stage, StepConfig
from sousvit.spaces.techniques.tokens.pooling import unsupported_pooling

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer
    from torch import nn

#: Depths of the reducing blocks, in twelfths of all. ``spread`` is the paper's: the 4th, 7th and 10th of 12 blocks.
SCHEDULES = {"early": (2, 4, 6), "spread": (3, 6, 9), "late": (6, 8, 10)}


class EvitConfig(StepConfig):
    """``keep`` is the share of patch tokens kept at each of the three reducing blocks.

    ``schedule`` says where they are: the earlier, the faster and the less accurate at the same ``keep``.
    """

    keep: float = Field(default=0.7, gt=0, le=1)
    schedule: Literal["early", "spread", "late"] = "spread"

    def patches(self, shape: VitShape) -> tuple[int, ...]:
        """Patch tokens left after each block's attention."""
        return patches_kept(shape.num_patches, shape.depth, self.keep, self.schedule)


class Evit(ModelTechnique):
    """The attentive tokens, and one for the others; without a class token, attentive is what receives attention."""

    name: ClassVar[str] = "evit"
    stage: ClassVar[Stage] = Stage.TOKENS
    config: ClassVar[type[StepConfig]] = EvitConfig
    needs: ClassVar[Needs] = Needs(images=False, conflicts=frozenset({"tome"}))
    summary: ClassVar[str] = "keep the most attended tokens at three depths, fuse the others"
    source: ClassVar[str] = "EViT (arXiv 2202.07800)"

    def choices(self, shape: VitShape) -> Choices:
        return {"keep": (0.5, 0.6, 0.7, 0.8, 0.9, 1.0), "schedule": ("spread", "early", "late")}

    def unmet_need(self, shape: VitShape) -> str | None:
        return unsupported_pooling(shape)

    def is_identity(self, config: Any, shape: VitShape) -> bool:
        return bool(config.patches(shape)[-1] == shape.num_patches)

    def nested(self, config: Any) -> Any:
        """It touches no weights."""
        return config

    def reshape(self, shape: VitShape, config: Any) -> VitShape:
        counts = config.patches(shape)
        if counts[-1] == shape.num_patches:
            return shape
        return shape.with_tokens([count + shape.num_prefix_tokens for count in counts], [0] * shape.depth)

    def apply(self, model: VisionTransformer, config: Any, context: Context) -> nn.Module:
        from sousvit.spaces.layers.token_blocks import AttentiveBlocks

        shape = vit_shape(model)
        if self.reshape(shape, config) != shape:
            model.blocks = AttentiveBlocks(model, config.patches(shape))
            model.set_grad_checkpointing(False)  # it would call the blocks around their container
        return model.eval()


def patches_kept(patches: int, depth: int, keep: float, schedule: str = "spread") -> tuple[int, ...]:
    """Patch tokens, the fused one included, after each block's attention.

    The blocks of the schedule reduce, unless keeping and fusing would leave as many tokens as before.
    """
    reducing = {twelfths * depth // 12 for twelfths in SCHEDULES[schedule]}
    left = []
    for index in range(depth):
        if index in reducing:
            patches = min(patches, ceil(keep * patches) + 1)
        left.append(patches)
    return tuple(left)
