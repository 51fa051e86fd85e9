"""Pruning of head width: fewer channels in every attention head."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from sousvit.spaces.context import Context
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.shape import BlockShape, VitShape
from sousvit.spaces.technique import Choices, ModelTechnique, Stage, StepConfig

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer
    from torch import nn

MULTIPLE = 8


class PruneHeadDimConfig(StepConfig):
    """``keep``: share of a head's channels that stay, in multiples of 8."""

    keep: float = Field(default=0.5, gt=0, le=1)


class PruneHeadDim(ModelTechnique):
    """Heads of fewer channels with the nearest attention scores and values that fit, in closed form.

    Only the products matter: queries with keys, values with the output projection. Both are matrices of rank
    ``head_dim`` in the block's input; their best approximation of a lower rank on the calibration tokens is a
    truncated singular value decomposition whitened by the tokens' second moment, biases included as a constant token.
    Without data the first channels stay.
    """

    name: ClassVar[str] = "prune_head_dim"
    stage: ClassVar[Stage] = Stage.STRUCTURE
    config: ClassVar[type[StepConfig]] = PruneHeadDimConfig
    summary: ClassVar[str] = "narrower attention heads by whitened SVD of query-key and value-output products"
    source: ClassVar[str] = "SVD-LLM (arXiv 2403.07378) on head products; head width in NViT (2110.04869)"

    def choices(self, shape: VitShape) -> Choices:
        return {"keep": (0.25, 0.5, 0.75, 1.0)}

    def unmet_need(self, shape: VitShape) -> str | None:
        if shape.normalises_heads:
            return "queries and keys that are normalised"
        if not all(block.qkv_bias for block in shape.blocks):
            return "attention without biases"
        return "layers that are factored already" if any(any(block.ranks) for block in shape.blocks) else None

    def is_identity(self, config: Any, shape: VitShape) -> bool:
        return self.reshape(shape, config) == shape

    def reshape(self, shape: VitShape, config: Any) -> VitShape:
        return shape.with_blocks(replace(block, head_dim=kept_channels(block, config.keep)) for block in shape.blocks)

    def apply(self, model: VisionTransformer, config: Any, context: Context) -> nn.Module:
        from sousvit.spaces.calibration.stream import TokenStream
        from sousvit.spaces.techniques.pruning.head_products import narrow_heads, with_constant

        shape = vit_shape(model)
        model.eval()
        if self.is_identity(config, shape):
            return model
        stream = None if context.calibration is None else TokenStream(model, context, shape.embed_dim)
        for block, block_shape in zip(model.blocks, shape.blocks, strict=True):
            width = kept_channels(block_shape, config.keep)
            moment = None
            if stream is not None:
                moment = with_constant(stream.normed(block.norm1))
            narrow_heads(block.attn, width, moment)
            if stream is not None:
                stream.through(block)
        return model


def kept_channels(block: BlockShape, keep: float) -> int:
    """Multiples of 8 where a head has that many."""
    if keep == 1:
        return block.head_dim
    return min(block.head_dim, max(MULTIPLE, round(keep * block.head_dim / MULTIPLE) * MULTIPLE))
