"""Token reduction as pure tensor functions: bipartite soft matching and merging (ToMe), keep and fuse (EViT).

Everything is built from top-k, gather and scatter-add with fixed counts, so graphs export with a dynamic batch.
Sizes say how many original tokens a token stands for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
import torch.nn.functional as F

_SCATTERS = ContextVar("scatters", default=True)


@contextmanager
def without_scatter() -> Iterator[None]:
    """Let tokens merge by products with one-hot matrices, inside the block: LiteRT has no scatter-add.

    On ONNX Runtime as fast as the scatter, on OpenVINO 4% slower (ViT-Tiny of six blocks, 64 tokens, one thread).
    """
    before = _SCATTERS.set(False)
    try:
        yield
    finally:
        _SCATTERS.reset(before)


class Match(NamedTuple):
    """Which of N tokens merge; alternating tokens form set A (even positions) and set B (odd positions).

    Attributes:
        unmerged: positions within A that stay, ``[B, |A| - count]``.
        source: positions within A that merge, ``[B, count]``.
        target: positions within B that they merge into, ``[B, count]``.
    """

    unmerged: torch.Tensor
    source: torch.Tensor
    target: torch.Tensor


def bipartite_soft_matching(metric: torch.Tensor, count: int) -> Match:
    """The ``count`` most similar pairs between A and B (ToMe, arXiv 2210.09461, section 3).

    Every token of A points to its most similar token of B by cosine; the strongest pointers merge.

    Args:
        metric: ``[B, N, C]``, attention keys averaged over heads.
        count: tokens to merge, ToMe's r; at most ``N // 2``.
    """
    tokens = metric.shape[1]
    metric = F.normalize(metric.detach(), dim=-1)
    similarity = metric[:, ::2] @ metric[:, 1::2].transpose(1, 2)  # [B, |A|, |B|]
    best, target = similarity.max(dim=2)
    order = best.topk((tokens + 1) // 2, dim=1).indices
    source = order[:, :count]
    return Match(order[:, count:], source, target.gather(1, source))


def merge_tokens(x: torch.Tensor, sizes: torch.Tensor, match: Match) -> tuple[torch.Tensor, torch.Tensor]:
    """Merge matched tokens into means weighted by size; total size and the size-weighted sum are preserved.

    Args:
        x: tokens ``[B, N, D]``.
        sizes: ``[B, N, 1]``.
        match: of these N tokens.

    Returns:
        Tokens and sizes ``[B, N - count, ...]``: what is left of A, then B.
    """
    weighted, new_sizes = _sum_matched(x * sizes, match), _sum_matched(sizes, match)
    return weighted / new_sizes, new_sizes


def _sum_matched(x: torch.Tensor, match: Match) -> torch.Tensor:
    a, b = x[:, ::2], x[:, 1::2]
    moved = take_tokens(a, match.source)
    if _SCATTERS.get():
        b = b.scatter_add(1, match.target[..., None].expand_as(moved), moved)
    else:
        places = torch.arange(b.shape[1], device=b.device)
        b = b + (match.target[:, None, :] == places[:, None]).to(b.dtype) @ moved
    return torch.cat([take_tokens(a, match.unmerged), b], dim=1)


def keep_and_fuse(x: torch.Tensor, scores: torch.Tensor, kept: int) -> torch.Tensor:
    """Keep the tokens with the highest scores and fuse the others into their score-weighted mean (arXiv 2202.07800).

    Args:
        x: tokens ``[B, N, D]``.
        scores: attentiveness, positive, ``[B, N]``; no gradient flows into it.
        kept: tokens that stay as they are.

    Returns:
        Tokens ``[B, kept + 1, D]``, highest score first, the fused token last.
    """
    values, order = scores.detach().topk(scores.shape[1], dim=1)
    x, weights = take_tokens(x, order), values[:, kept:, None]
    fused = (x[:, kept:] * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
    return torch.cat([x[:, :kept], fused], dim=1)


def take_tokens(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Tokens ``index [B, M]`` of ``x [B, N, D]``: ``[B, M, D]``."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))
