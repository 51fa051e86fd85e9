"""The classifier of DINOv2, which timm has not: it reads the class token beside the mean of the patch tokens."""

from __future__ import annotations

import torch
from torch import nn

#: Its name as an argument of a model: ``args: {head: class_and_mean}``.
CLASS_AND_MEAN = "class_and_mean"


class ClassAndMean(nn.Module):
    """Two classifiers whose logits are added: ``token`` reads the class token, ``mean`` the mean of the patches.

    Side by side they are one linear layer of the two concatenated. Apart, each reads as many channels as a token has.
    """

    def __init__(self, width: int, num_classes: int, num_prefix_tokens: int) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens
        self.token = nn.Linear(width, num_classes)
        self.mean = nn.Linear(width, num_classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens ``[B, N, C]``, prefix tokens first, to logits ``[B, num_classes]``."""
        logits: torch.Tensor = self.token(tokens[:, 0]) + self.mean(tokens[:, self.num_prefix_tokens :].mean(1))
        return logits

    def pooled(self, tokens: torch.Tensor) -> torch.Tensor:
        """What both read, as one vector ``[B, C]``: the mean of the class token and of the patches' mean."""
        return (tokens[:, 0] + tokens[:, self.num_prefix_tokens :].mean(1)) / 2


def attach_class_and_mean(vit: nn.Module, num_classes: int) -> None:
    """Give a VisionTransformer of timm that returns all its tokens (``global_pool=""``) that classifier."""
    vit.head = ClassAndMean(vit.embed_dim, num_classes, vit.num_prefix_tokens)  # type: ignore[arg-type]
    vit.num_classes = num_classes  # type: ignore[assignment]
