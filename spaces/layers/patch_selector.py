"""Patches left out before the first block: the module that does it, and the contrast by which patches are chosen."""

from __future__ import annotations

import torch
from torch import nn


class PatchSelector(nn.Module):
    """Stands after the patch and position embeddings (``model.patch_drop``) and keeps some patches.

    Args:
        count: patches that stay.
        num_prefix: tokens before the patches.
        places: which ones, or None to choose by each image's contrast, which ``watch`` notes.
        patch: side of a patch in pixels.
    """

    places: torch.Tensor

    def __init__(self, count: int, num_prefix: int, places: torch.Tensor | None, patch: tuple[int, int]) -> None:
        super().__init__()
        self.count, self.num_prefix, self.patch = count, num_prefix, patch
        self.by_image = places is None
        self.register_buffer("places", torch.arange(count) if places is None else places)
        self._contrast: torch.Tensor | None = None

    def watch(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        """Forward pre-hook of the patch embedding: notes the contrast of every patch."""
        if self.by_image:
            self._contrast = contrast(inputs[0], self.patch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens ``[B, N, D]`` to ``[B, prefix + count, D]``."""
        prefix, patches = x[:, : self.num_prefix], x[:, self.num_prefix :]
        if self.by_image:
            assert self._contrast is not None
            order = self._contrast.topk(self.count, dim=1).indices
            kept = patches.gather(1, order[:, :, None].expand(-1, -1, x.shape[2]))
        else:
            kept = patches.index_select(1, self.places)
        return torch.cat([prefix, kept], dim=1)


def contrast(images: torch.Tensor, patch: tuple[int, int]) -> torch.Tensor:
    """Variance of the pixels of every patch, ``[B, patches]``."""
    batch, channels, height, width = images.shape
    rows, columns = height // patch[0], width // patch[1]
    parts = images.reshape(batch, channels, rows, patch[0], columns, patch[1])
    mean = parts.mean((1, 3, 5), keepdim=True)
    return (parts - mean).square().mean((1, 3, 5)).flatten(1)
