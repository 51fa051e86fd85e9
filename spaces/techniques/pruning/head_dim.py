"""Narrower heads in every block."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from sousvit.spaces.calibration.repair import Moments
from sousvit.spaces.calibration.stream import TokenStream, new_linear
from sousvit.spaces.context import Context
from sousvit.spaces.layers.low_rank import whitening
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.shape import BlockShape, VitShape
from sousvit.spaces.technique import Choices, ModelTechnique, Stage, StepConfig

if TYPE_CHECKING:
    from timm.layers import Attention
    from timm.models.vision_transformer import Block, VisionTransformer

MULTIPLE = 8


class PruneHeadDimConfig(StepConfig):
    """``keep``: share of a head's channels that stay, in multiples of 8."""

    keep: float = Field(default=0.5, gt=0, le=1)


class PruneHeadDim(ModelTechnique):
    """Gives every head the nearest attention scores and values that fit fewer channels, in closed form.

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
        shape = vit_shape(model)
        model.eval()
        if self.is_identity(config, shape):
            return model
        stream = None if context.calibration is None else TokenStream(model, context, shape.embed_dim)
        for block, block_shape in zip(model.blocks, shape.blocks, strict=True):
            width = kept_channels(block_shape, config.keep)
            moment = None
            if stream is not None:
                moments = stream.moments(partial(_attend, block), block.attn.qkv)
                moment = _with_constant(moments)
            narrow_heads(block.attn, width, moment)
            if stream is not None:
                stream.advance(block)
        return model


def kept_channels(block: BlockShape, keep: float) -> int:
    """Multiples of 8 where a head has that many."""
    if keep == 1:
        return block.head_dim
    return min(block.head_dim, max(MULTIPLE, round(keep * block.head_dim / MULTIPLE) * MULTIPLE))


def _attend(block: Block, tokens: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = block.attn(block.norm1(tokens))
    return out


def _with_constant(moments: Moments) -> torch.Tensor:
    """Second moment ``[inputs + 1, inputs + 1]`` of the inputs with a 1 appended."""
    mean = moments.sum_x / moments.count
    top = torch.cat([moments.xx / moments.count, mean[:, None]], dim=1)
    return torch.cat([top, torch.cat([mean, mean.new_ones(1)])[None]])


@torch.no_grad()
def narrow_heads(attention: Attention, width: int, moment: torch.Tensor | None) -> None:
    """Keep ``width`` channels a head.

    Args:
        attention: with query, key and value biases.
        width: at most ``head_dim``.
        moment: of the input with a constant, or None to keep the first channels.
    """
    heads, old = attention.num_heads, attention.head_dim
    augmented = torch.cat([attention.qkv.weight, attention.qkv.bias[:, None]], dim=1).double()
    parts = augmented.unflatten(0, (3, heads, old))  # [3, heads, old, inputs + 1]
    output = attention.proj.weight.double().unflatten(1, (heads, old))  # [outputs, heads, old]
    # The scores are divided by the root of the new width, so queries take the difference.
    stretch = math.sqrt(width / old)
    if moment is None:
        q, k, v = (part[:, :width] for part in parts)
        q, out = q * stretch, output[:, :, :width]
    else:
        root, inverse = whitening(moment)
        q, k = _split(parts[0].mT @ parts[1], root, inverse, width, stretch)
        v, out = _split_values(parts[2], output, root, inverse, width)
    joined = torch.cat([part.flatten(0, 1) for part in (q, k, v)]).to(attention.qkv.weight.dtype)
    attention.qkv = new_linear(attention.qkv, joined[:, :-1], joined[:, -1])
    attention.proj = new_linear(attention.proj, out.flatten(1).to(joined.dtype), attention.proj.bias)
    attention.head_dim, attention.attn_dim, attention.scale = width, heads * width, width**-0.5


def _split(
    scores: torch.Tensor, root: torch.Tensor, inverse: torch.Tensor, width: int, stretch: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys ``[heads, width, inputs + 1]`` whose products are nearest to ``scores [heads, in, in]``."""
    u, s, vt = torch.linalg.svd(root.T @ scores @ root)
    scale = s[:, :width, None].sqrt()
    queries = scale * u[:, :, :width].mT @ inverse
    keys = scale * vt[:, :width] @ inverse
    return queries * stretch, keys


def _split_values(
    values: torch.Tensor, output: torch.Tensor, root: torch.Tensor, inverse: torch.Tensor, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values ``[heads, width, inputs + 1]`` and their output weights ``[outputs, heads, width]``."""
    product = output.transpose(0, 1) @ values  # [heads, outputs, inputs + 1]
    u, s, vt = torch.linalg.svd(product @ root, full_matrices=False)
    scale = s[:, :width].sqrt()
    return scale[:, :, None] * vt[:, :width] @ inverse, (u[:, :, :width] * scale[:, None]).transpose(0, 1)
