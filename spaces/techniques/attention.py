"""Efficient attention: a cheaper form in the place of softmax, converted in closed form from calibration images."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from sousvit.spaces.context import Context
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.needs import Needs
from sousvit.spaces.shape import BlockShape, VitShape
from sousvit.spaces.technique import Choices, ModelTechnique, Stage, StepConfig

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer
    from torch import nn

DEFAULT_LANDMARKS = 16


class AttentionConfig(StepConfig):
    """``kind``: the form; ``none`` keeps softmax. ``landmarks``: of Nystrom attention. ``blocks``: which ones change.
    ``convert``: refit the output projection so that the block answers as before on calibration images.
    """

    kind: Literal["none", "nystrom", "sima", "focused"] = "nystrom"
    landmarks: int = Field(default=DEFAULT_LANDMARKS, ge=1, le=65_536)
    blocks: Literal["all", "first", "last"] = "all"
    convert: bool = True


class EfficientAttentionTechnique(ModelTechnique):
    """Nystrom, SimA or focused linear attention, block by block; each is fitted to what its softmax attention gave.

    At the few hundred tokens of usual image sizes little time goes into softmax attention, so little can be gained
    there; its share grows with the square of the tokens. The search finds out on its target.
    """

    name: ClassVar[str] = "attention"
    stage: ClassVar[Stage] = Stage.ATTENTION
    config: ClassVar[type[StepConfig]] = AttentionConfig
    needs: ClassVar[Needs] = Needs(conflicts=frozenset({"tome", "evit"}))
    summary: ClassVar[str] = "Nystrom, SimA or focused linear attention in place of softmax"
    source: ClassVar[str] = "Nystromformer (arXiv 2102.03902); SimA (2206.08898); FLatten (2308.00442)"

    def choices(self, shape: VitShape) -> Choices:
        """Forms, and a quarter or half of the tokens as landmarks."""
        tokens = shape.num_tokens
        landmarks = tuple(sorted({max(1, tokens // 8), max(1, tokens // 4), max(1, tokens // 2)}))
        return {"kind": ("nystrom", "sima", "focused"), "landmarks": landmarks, "blocks": ("all", "first", "last")}

    def unmet_need(self, shape: VitShape) -> str | None:
        if shape.reduces_tokens:
            return "tokens that are reduced already"
        return None if all(block.attention == "softmax" for block in shape.blocks) else "attention replaced already"

    def is_identity(self, config: Any, shape: VitShape) -> bool:
        return bool(config.kind == "none")

    def normalised(self, config: Any, shape: VitShape) -> Any:
        """Only Nystrom attention has landmarks."""
        return config if config.kind == "nystrom" else config.model_copy(update={"landmarks": DEFAULT_LANDMARKS})

    def reshape(self, shape: VitShape, config: Any) -> VitShape:
        if config.kind == "none":
            return shape
        changed = changed_blocks(shape.depth, config.blocks)
        return shape.with_blocks(
            _changed(block, config, shape) if index in changed else block for index, block in enumerate(shape.blocks)
        )

    def apply(self, model: VisionTransformer, config: Any, context: Context) -> nn.Module:
        from sousvit.spaces.calibration.refit import refit_projection
        from sousvit.spaces.calibration.stream import TokenStream
        from sousvit.spaces.layers.attention import EfficientAttention

        model.eval()
        shape = vit_shape(model)
        if config.kind == "none":
            return model
        changed = changed_blocks(shape.depth, config.blocks)
        stream = None
        if context.calibration is not None and config.convert:
            stream = TokenStream(model, context, max(block.attn_dim for block in shape.blocks))
        for index, (block, block_shape) in enumerate(zip(model.blocks, shape.blocks, strict=True)):
            if index in changed:
                softmax = block.attn
                block.attn = EfficientAttention(
                    softmax, config.kind, block_shape.tokens_in, shape.grid, config.landmarks
                ).eval()
                if stream is not None:
                    refit_projection(stream, block, softmax, context)
            if stream is not None:
                stream.through(block)
        return model


def changed_blocks(depth: int, which: str) -> range:
    """Indices of the blocks that change."""
    half = (depth + 1) // 2
    return {"all": range(depth), "first": range(half), "last": range(depth - half, depth)}[which]


def _changed(block: BlockShape, config: AttentionConfig, shape: VitShape) -> BlockShape:
    if config.kind == "nystrom":
        return replace(block, attention="nystrom", landmarks=min(config.landmarks, block.tokens_in))
    if config.kind == "sima":
        return replace(block, attention="sima")
    conv_params = 10 * block.head_dim  # 3 x 3 and a bias for every channel of a head
    return replace(
        block, attention="focused", conv_tokens=shape.num_patches, other_params=block.other_params + conv_params
    )
