"""Attention in linear or landmark form, with the interface of timm's ``Attention``.

* ``nystrom``: softmax attention through m landmarks, segment means of queries and keys, and an iterative
  pseudo-inverse (Nystromformer, Xiong et al., arXiv 2102.03902). With as many landmarks as tokens it is exact.
* ``sima``: queries and keys normalised by their l1 norm over the tokens, no softmax (SimA, Koohpayegani and
  Pirsiavash, arXiv 2206.08898); computed in whichever order is cheaper.
* ``focused``: linear attention with a focusing feature map and a depthwise convolution that restores the rank of
  the values (FLatten, Han et al., arXiv 2308.00442).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import nn

from sousvit.spaces.shape import PINV_STEPS

if TYPE_CHECKING:
    from timm.layers import Attention

Kind = Literal["nystrom", "sima", "focused"]

#: Exponent of the focusing map, and side of the depthwise convolution.
FOCUS = 3
CONV_SIDE = 3
_EPSILON = 1e-6


class EfficientAttention(nn.Module):
    """Attention of one of these kinds, with the projections of the timm ``Attention`` that it replaces.

    Args:
        attention: the module to replace.
        kind: ``nystrom``, ``sima`` or ``focused``.
        tokens: how many enter it.
        grid: rows and columns of the patches among them (the last tokens).
        landmarks: of ``nystrom``; more than ``tokens`` mean as many as tokens.
    """

    segments: torch.Tensor

    def __init__(
        self, attention: Attention, kind: Kind, tokens: int, grid: tuple[int, int], landmarks: int = 0
    ) -> None:
        super().__init__()
        self.kind, self.grid = kind, grid
        self.landmarks = min(landmarks, tokens) if kind == "nystrom" else 0
        self.num_heads, self.head_dim = attention.num_heads, attention.head_dim
        self.attn_dim, self.scale = attention.attn_dim, attention.scale
        self.qkv, self.q_norm, self.k_norm = attention.qkv, attention.q_norm, attention.k_norm
        self.attn_drop, self.norm, self.gate = attention.attn_drop, attention.norm, None
        self.proj, self.proj_drop = attention.proj, attention.proj_drop
        if kind == "nystrom" and self.landmarks < tokens:
            self.register_buffer("segments", segment_means(tokens, self.landmarks), persistent=False)
        if kind == "focused":
            self.conv = nn.Conv2d(
                self.head_dim, self.head_dim, CONV_SIDE, padding=CONV_SIDE // 2, groups=self.head_dim, bias=True
            )
            for parameter in self.conv.parameters():
                nn.init.zeros_(parameter)  # at conversion the values pass unchanged

    def forward(self, x: torch.Tensor, attn_mask: torch.Tensor | None = None, is_causal: bool = False) -> torch.Tensor:
        """Tokens ``[B, N, D]`` to tokens ``[B, N, D]``; timm's blocks pass masks, which no image classifier uses."""
        assert attn_mask is None and not is_causal
        batch, tokens = x.shape[:2]
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        heads = self.attend(self.q_norm(q), self.k_norm(k), v)
        out: torch.Tensor = self.proj_drop(self.proj(heads.transpose(1, 2).reshape(batch, tokens, self.attn_dim)))
        return out

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Outputs of the heads; ``[B, heads, N, head_dim]`` like queries, keys and values."""
        if self.kind == "sima":
            return sima_attention(q, k, v)
        if self.kind == "focused":
            return focused_attention(q, k, v) + self._local(v)
        if not hasattr(self, "segments"):
            return F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return nystrom_attention(q * self.scale, k, v, self.segments)

    def _local(self, v: torch.Tensor) -> torch.Tensor:
        """The depthwise convolution of the patches' values; other tokens get nothing."""
        batch, heads, tokens, width = v.shape
        rows, columns = self.grid
        prefix = tokens - rows * columns
        patches = v[:, :, prefix:].transpose(2, 3).reshape(batch * heads, width, rows, columns)
        local = self.conv(patches).reshape(batch, heads, width, rows * columns).transpose(2, 3)
        return local if prefix == 0 else torch.cat([torch.zeros_like(v[:, :, :prefix]), local], dim=2)


def segment_means(tokens: int, landmarks: int) -> torch.Tensor:
    """``[landmarks, tokens]``: rows average neighbouring tokens, in segments as equal as possible."""
    means = torch.zeros(landmarks, tokens)
    for landmark in range(landmarks):
        start, end = landmark * tokens // landmarks, (landmark + 1) * tokens // landmarks
        means[landmark, start:end] = 1 / (end - start)
    return means


def nystrom_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, segments: torch.Tensor, steps: int = PINV_STEPS
) -> torch.Tensor:
    """Nystrom approximation of ``softmax(q k^T) v``; queries are scaled already.

    Args:
        q: ``[..., N, d]``.
        k: likewise.
        v: likewise.
        segments: ``[m, N]``, see :func:`segment_means`.
        steps: of the pseudo-inverse.
    """
    q_landmarks, k_landmarks = segments @ q, segments @ k
    to_landmarks = (q @ k_landmarks.transpose(-2, -1)).softmax(-1)
    core = (q_landmarks @ k_landmarks.transpose(-2, -1)).softmax(-1)
    from_tokens = (q_landmarks @ k.transpose(-2, -1)).softmax(-1)
    return to_landmarks @ (iterative_pinv(core, steps) @ (from_tokens @ v))


def iterative_pinv(matrices: torch.Tensor, steps: int = PINV_STEPS) -> torch.Tensor:
    """Moore-Penrose inverse of ``[..., m, m]`` by a third-order iteration of matrix products.

    The starting point is scaled for each matrix by itself (the original takes one scale for the batch, which makes an
    image's result depend on its neighbours).
    """
    size = matrices.shape[-1]
    # torch.eye does not convert to LiteRT.
    places = torch.arange(size, device=matrices.device)
    identity = (places[:, None] == places).to(matrices.dtype)
    columns = matrices.abs().sum(-2).amax(-1)[..., None, None]
    rows = matrices.abs().sum(-1).amax(-1)[..., None, None]
    z = matrices.transpose(-2, -1) / (columns * rows)
    for _ in range(steps):
        product = matrices @ z
        z = 0.25 * z @ (13 * identity - product @ (15 * identity - product @ (7 * identity - product)))
    return z


def sima_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """``q^ (k^^T v)`` with both normalised by their l1 norm over the tokens; ``[..., N, d]`` each."""
    q = q / (q.abs().sum(-2, keepdim=True) + _EPSILON)
    k = k / (k.abs().sum(-2, keepdim=True) + _EPSILON)
    if q.shape[-2] < q.shape[-1]:
        return (q @ k.transpose(-2, -1)) @ v
    return q @ (k.transpose(-2, -1) @ v)


def focused_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Linear attention ``f(q) (f(k)^T v) / (f(q) sum f(k))`` with the focusing map; ``[..., N, d]`` each."""
    q, k = focusing(q), focusing(k)
    normaliser = q @ k.sum(-2, keepdim=True).transpose(-2, -1)
    return q @ (k.transpose(-2, -1) @ v) / (normaliser + _EPSILON)


def focusing(x: torch.Tensor) -> torch.Tensor:
    """``|x| x^p / |x^p|`` of ReLU(x): directions sharpen, lengths stay."""
    x = x.relu() + _EPSILON
    sharp = x**FOCUS
    length = x.square().sum(-1, keepdim=True).sqrt()
    return sharp * (length / sharp.square().sum(-1, keepdim=True).sqrt())
