"""The convolutional network that teaches the strong base: airbench's (Jordan, arXiv 2404.00498), by its structure.

Its first convolutions read all 32 x 32 pixels, which costs more than the compact students' do, and learns more.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

#: Standard deviations of CIFAR-10's normalised 2 x 2 patches along :func:`_directions`.
SPREAD = (3.164, 0.632, 0.583, 0.233, 0.871, 0.076, 0.063, 0.015, 0.424, 0.047, 0.042, 0.012)


class Network(nn.Module):
    """A network for 32 x 32 images: ``width`` channels at 16 pixels, ``wide`` ones at 8 and 4."""

    def __init__(self, width: int, wide: int, num_classes: int) -> None:
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        with torch.no_grad():
            whitened = _directions() / torch.tensor(SPREAD)[:, None]
            self.whiten.weight.copy_(torch.cat([whitened, -whitened]).view(24, 3, 2, 2))
        self.whiten.weight.requires_grad = False
        self.blocks = nn.Sequential(_Block(24, width), _Block(width, wide), _Block(wide, wide))
        self.head = nn.Linear(wide, num_classes, bias=False)
        self.pretrained_cfg = {"input_size": (3, 32, 32)}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images ``[B, 3, 32, 32]`` to logits ``[B, classes]``, scaled down so that training begins gently."""
        x = self.blocks(F.gelu(self.whiten(images)))
        return self.head(F.adaptive_max_pool2d(x, 1).flatten(1)) / 9


class _Block(nn.Module):
    """Two convolutions; the map is halved after the first."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps ``[B, inputs, H, W]`` to ``[B, outputs, H // 2, W // 2]``."""
        x = F.gelu(self.first_norm(F.max_pool2d(self.first(x), 2)))
        return F.gelu(self.second_norm(self.second(x)))


def _directions() -> torch.Tensor:
    """Twelve orthonormal patches ``[12, 3 * 2 * 2]``: Haar's four along three colours.

    They come close to the principal components of natural images, which airbench computes.
    """
    haar = torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]) / 2
    colours = F.normalize(torch.tensor([[1.0, 1, 1], [1, 0, -1], [1, -2, 1]]))
    return torch.einsum("cr,hp->chrp", colours, haar).reshape(12, 12)


def network(width: int = 64, wide: int = 256, num_classes: int = 10) -> nn.Module:
    """The network with random weights."""
    return Network(width, wide, num_classes)
