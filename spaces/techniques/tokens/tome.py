"""Token merging (ToMe): similar tokens become one, a few in every block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from sousvit.errors import UserError
from sousvit.spaces.context import Context
from sousvit.spaces.layers.token_blocks import TokenBlocks, project_heads, queries_keys_values, unsupported_pooling
from sousvit.spaces.layers.token_math import bipartite_soft_matching, merge_tokens
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.shape import VitShape
from sousvit.spaces.technique import Choices, ModelTechnique, Stage, StepConfig

if TYPE_CHECKING:
    from timm.models.vision_transformer import Block, VisionTransformer

#: Shares of the patch tokens that a search may leave.
KEEPS = (0.25, 0.4, 0.55, 0.7, 0.85, 1.0)


class TomeConfig(StepConfig):
    """``keep`` is the share of patch tokens left after the last block.

    ``schedule`` spreads the merges evenly over the blocks, or linearly decreasing to none in the last (faster, less
    accurate at the same ``keep``).
    """

    keep: float = Field(default=0.55, gt=0, le=1)
    schedule: Literal["constant", "decreasing"] = "constant"


class MergingBlocks(TokenBlocks):
    """Merges by bipartite soft matching of keys, with proportional attention (a token of size s counts s times)."""

    has_sizes: ClassVar[bool] = True

    def run_block(self, block: Block, x: torch.Tensor, sizes: torch.Tensor | None) -> torch.Tensor:
        if sizes is None:
            return super().run_block(block, x, sizes)
        x, _ = self._attend(block, x, sizes)
        out: torch.Tensor = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
        return out

    def reduce(
        self, block: Block, x: torch.Tensor, sizes: torch.Tensor | None, patches: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        prefix, count = self.num_prefix, x.shape[1] - self.num_prefix - patches
        x, keys = self._attend(block, x, sizes)
        sizes = torch.ones_like(x[..., :1]) if sizes is None else sizes
        match = bipartite_soft_matching(keys.mean(1)[:, prefix:], count)
        merged, merged_sizes = merge_tokens(x[:, prefix:], sizes[:, prefix:], match)
        return torch.cat([x[:, :prefix], merged], dim=1), torch.cat([sizes[:, :prefix], merged_sizes], dim=1)

    def token_macs(self, head_dim: int, before: int, after: int) -> int:
        """The similarities."""
        return ((before + 1) // 2) * (before // 2) * head_dim

    def _attend(self, block: Block, x: torch.Tensor, sizes: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Proportional attention with its residual, and the keys ``[B, heads, N, head_dim]``."""
        attention = block.attn
        q, k, v = queries_keys_values(attention, block.norm1(x))
        bias = None if sizes is None else sizes.log().transpose(1, 2)[:, None].to(q.dtype)  # [B, 1, 1, N]
        dropout = attention.attn_drop.p if attention.training else 0.0
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
        return x + block.drop_path1(block.ls1(project_heads(attention, heads))), k


class Tome(ModelTechnique):
    """Merges similar patch tokens between attention and MLP; class and other prefix tokens are never merged."""

    name: ClassVar[str] = "tome"
    stage: ClassVar[Stage] = Stage.TOKENS
    config: ClassVar[type[StepConfig]] = TomeConfig
    summary: ClassVar[str] = "merge similar tokens, a few in every block"
    source: ClassVar[str] = "ToMe (arXiv 2210.09461)"
    conflicts: ClassVar[frozenset[str]] = frozenset({"evit"})
    uses_images: ClassVar[bool] = False

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
