"""Containers in place of ``model.blocks`` that reduce tokens: ToMe's, which merges, and EViT's, which keeps some.

Tokens are reduced between attention and MLP of a block, as in both papers. Where tokens are merged, the container
carries their sizes, so that a model with average pooling still averages over all original patches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from sousvit.spaces.layers.token_math import bipartite_soft_matching, keep_and_fuse, merge_tokens

if TYPE_CHECKING:
    from timm.layers import Attention
    from timm.models.vision_transformer import Block, VisionTransformer

    from sousvit.spaces.shape import VitShape


class TokenBlocks(nn.Module, ABC):
    """Blocks that run in order; ``patches[i]`` patch tokens are left after block i's attention.

    Parameters keep their names, but for one: where merged tokens meet average pooling, the final norm moves in here
    (``blocks.norm``). Tokens are rescaled after it, so that timm's plain mean over them is the mean weighted by size.

    Args:
        model: a timm VisionTransformer; its blocks (and norm) are taken over.
        patches: patch tokens left by each block.
    """

    #: Whether tokens have sizes, the number of original tokens they stand for.
    has_sizes: ClassVar[bool]

    def __init__(self, model: VisionTransformer, patches: Sequence[int]) -> None:
        super().__init__()
        for index, block in enumerate(model.blocks):
            self.add_module(str(index), block)
        self.depth = len(model.blocks)
        self.num_prefix = model.num_prefix_tokens
        self.num_patches = model.patch_embed.num_patches
        self.patches = tuple(patches)
        assert len(self.patches) == self.depth
        self.reads_class_token = model.global_pool == "token"
        self.averages_prefix = bool(getattr(model, "pool_include_prefix", False))
        self.norm: nn.Module | None = None
        if self.has_sizes and model.global_pool == "avg":
            self.norm, model.norm = model.norm, nn.Identity()

    def __len__(self) -> int:
        return self.depth

    def __iter__(self) -> Iterator[Block]:
        return (self.get_submodule(str(index)) for index in range(self.depth))

    @abstractmethod
    def reduce(
        self, block: Block, x: torch.Tensor, sizes: torch.Tensor | None, patches: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attention of ``block`` with its residual, then ``patches`` patch tokens left.

        Args:
            block: the block.
            x: tokens ``[B, N, D]``.
            sizes: ``[B, N, 1]``, or None where all are 1.
            patches: patch tokens to leave; fewer than there are.

        Returns:
            Tokens and sizes that enter the block's MLP.
        """

    @abstractmethod
    def token_macs(self, head_dim: int, before: int, after: int) -> int:
        """MACs of the matrix products that choose ``after`` of ``before`` patch tokens."""

    def run_block(self, block: Block, x: torch.Tensor, sizes: torch.Tensor | None) -> torch.Tensor:
        """Tokens after a block that reduces none of them."""
        out: torch.Tensor = block(x)
        return out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens ``[B, N, D]`` to fewer tokens ``[B, M, D]``."""
        sizes: torch.Tensor | None = None
        before = self.num_patches
        for block, patches in zip(self, self.patches, strict=True):
            if patches == before:
                x = self.run_block(block, x, sizes)
                continue
            x, sizes = self.reduce(block, x, sizes, patches)
            x = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
            before = patches
        if self.norm is None:
            return x
        x = self.norm(x)
        if sizes is None:
            return x
        prefix = self.num_prefix if self.averages_prefix else 0
        return x * (sizes * ((before + prefix) / (self.num_patches + prefix)))

    def token_plan(self, shape: VitShape) -> tuple[list[int], list[int]]:
        """(tokens that enter each block's MLP, MACs of choosing them); read by :mod:`sousvit.spaces.module_shape`."""
        tokens = [patches + self.num_prefix for patches in self.patches]
        befores = [self.num_patches, *self.patches[:-1]]
        macs = [
            self.token_macs(block.head_dim, before, after) if after < before else 0
            for block, before, after in zip(shape.blocks, befores, self.patches, strict=True)
        ]
        return tokens, macs


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


class AttentiveBlocks(TokenBlocks):
    """Keeps the tokens that get most attention, and one fused token for the others.

    The fused token counts as one, also in average pooling: weighting it by the tokens it stands for cost 6 points
    of top-1 on a small CIFAR-10 model, for those tokens are the unimportant ones.
    """

    has_sizes: ClassVar[bool] = False

    def reduce(
        self, block: Block, x: torch.Tensor, sizes: torch.Tensor | None, patches: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        attention, prefix = block.attn, self.num_prefix
        q, k, v = queries_keys_values(attention, block.norm1(x))
        weights = (q * attention.scale @ k.transpose(-2, -1)).softmax(dim=-1)  # [B, heads, N, N]
        scores = weights[:, :, 0].mean(1) if self.reads_class_token else weights.mean((1, 2))
        x = x + block.drop_path1(block.ls1(project_heads(attention, attention.attn_drop(weights) @ v)))
        tokens = keep_and_fuse(x[:, prefix:], scores[:, prefix:].to(x.dtype), patches - 1)
        return torch.cat([x[:, :prefix], tokens], dim=1), None

    def token_macs(self, head_dim: int, before: int, after: int) -> int:
        """None: the attention that chooses is computed anyway."""
        return 0


def queries_keys_values(attention: Attention, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values ``[B, heads, N, head_dim]`` of normalised tokens ``x [B, N, D]``."""
    batch, tokens = x.shape[:2]
    qkv = attention.qkv(x).reshape(batch, tokens, 3, attention.num_heads, attention.head_dim)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return attention.q_norm(q), attention.k_norm(k), v


def project_heads(attention: Attention, heads: torch.Tensor) -> torch.Tensor:
    """Head outputs ``[B, heads, N, head_dim]`` to tokens ``[B, N, D]``."""
    out: torch.Tensor = attention.proj_drop(attention.proj(heads.transpose(1, 2).flatten(2)))
    return out
