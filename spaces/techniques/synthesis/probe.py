"""Attention outputs of the patches, block by block: what the priors are computed from."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import nn


class Probe:
    """A context in which a model also returns each block's attention output on the patches ``[B, N, D]``.

    A model without ``blocks`` that have an ``attn`` over all patches returns none, and the priors that need them are
    left out.
    """

    def __init__(self, model: Any) -> None:
        self._model: nn.Module = model
        self._prefix = int(getattr(model, "num_prefix_tokens", 0))
        grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
        self.grid: tuple[int, int] | None = None if grid is None else (int(grid[0]), int(grid[1]))
        blocks = model.blocks if isinstance(getattr(model, "blocks", None), nn.Sequential) else ()
        layers = [block.attn for block in blocks if isinstance(getattr(block, "attn", None), nn.Module)]
        self._found: list[torch.Tensor] = []
        self._handles = [layer.register_forward_hook(self._keep) for layer in layers]

    def _keep(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.ndim == 3 and self.grid is not None:
            patches = output[:, self._prefix :]
            if patches.shape[1] == self.grid[0] * self.grid[1]:
                self._found.append(patches)

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Logits ``[B, classes]`` and the attention outputs, in order."""
        self._found = []
        logits: torch.Tensor = self._model(images)
        return logits, self._found

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()
