"""The convolutional network that teaches the strong base: airbench's blocks (Jordan, arXiv 2404.00498).

Its first convolutions read all 32 x 32 pixels, which costs more than the compact students' do, and learns more.
"""

from __future__ import annotations

from torch import nn


def network(width: int = 48, wide: int = 192, num_classes: int = 10) -> nn.Module:
    """A network for 32 x 32 images: ``width`` channels at 16 pixels, ``wide`` ones at 8 and 4."""
    model = nn.Sequential(
        *_unit(3, width // 2),
        *_block(width // 2, width),
        *_block(width, wide),
        *_block(wide, wide),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(wide, num_classes),
    )
    model.pretrained_cfg = {"input_size": (3, 32, 32)}  # type: ignore[assignment]
    return model


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    """Two convolutions; the map is halved after the first."""
    first = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(outputs), nn.GELU()]
    return [*first, *_unit(outputs, outputs)]


def _unit(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.GELU()]
