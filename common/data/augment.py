"""Augmentation as pure tensor functions, drawn per image and view so that it can be drawn again.

The same ``(policy, seed, view)`` gives the same pixels for the same image, whatever the batches: a
teacher's logits on a view are computed once and stored (TinyViT, arXiv 2207.10666).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

Policy = Literal["none", "flip", "crop_flip"]


@dataclass(frozen=True)
class View:
    """One random view of a data set of ``count`` images.

    ``shift`` is int64 ``[count, 2]`` (pixels down and right, in ``[0, 2 * pad]``), ``flip`` bool ``[count]``.
    """

    pad: int
    shift: torch.Tensor
    flip: torch.Tensor

    @classmethod
    def draw(cls, policy: Policy, count: int, size: tuple[int, int], seed: int, view: int) -> View:
        """Draw a view of ``count`` images of ``size`` (height, width)."""
        generator = torch.Generator().manual_seed(seed * 100_003 + view)
        pad = max(1, round(min(size) / 14)) if policy == "crop_flip" else 0
        shift = torch.randint(0, 2 * pad + 1, (count, 2), generator=generator)
        flip = torch.rand(count, generator=generator) < (0.0 if policy == "none" else 0.5)
        return cls(pad, shift, flip)

    def apply(self, images: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """The view of ``images`` ``[B, C, H, W]``, which stand at ``positions`` ``[B]`` of the set."""
        flip = self.flip[positions]
        if flip.any():
            images = torch.where(flip[:, None, None, None], images.flip(3), images)
        if self.pad == 0:
            return images
        height, width = images.shape[2:]
        padded = F.pad(images.float(), [self.pad] * 4, mode="reflect").to(images.dtype)
        rows = self.shift[positions, :1] + torch.arange(height)
        columns = self.shift[positions, 1:] + torch.arange(width)
        batch = torch.arange(len(images))[:, None, None]
        return padded[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
