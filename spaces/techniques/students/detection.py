"""A student that detects: a compact backbone under a copy of the base's own pyramid and head.

The backbone's last map has the stride of the base's patches, so the student predicts at the base's positions, and every
distillation loss of detectors applies. Pyramid and head begin with the base's weights; only the layer that reads the
backbone is new, and learns together with the backbone.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sousvit.errors import UserError
from sousvit.models.detector import DetectionHead, head_of

if TYPE_CHECKING:
    from sousvit.spaces.techniques.students.convolutional import Network


class CompactDetector(nn.Module):
    """A network of convolutions whose last map a detection head reads, pixel by pixel, as it reads a ViT's patches.

    Args:
        backbone: images to maps ``[B, width, rows, columns]`` of the head's own grid.
        width: channels of that map.
        head: the base's; it is copied.
    """

    def __init__(self, backbone: nn.Module, width: int, head: DetectionHead) -> None:
        super().__init__()
        self.backbone, self.num_classes = backbone, head.num_classes
        self.head = deepcopy(head)
        self.head.num_prefix, self.head.grid = 0, self.head.own_grid
        self.head.reduce = nn.Linear(width, head.reduce.out_features)

    @property
    def network(self) -> nn.Module:
        """What makes the map, under the names of its own parameters."""
        found: nn.Module = self.backbone.network  # type: ignore[assignment]
        return found

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """``[B, rows * columns, width]``."""
        return self.backbone(images).flatten(2).transpose(1, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Dense predictions, as :class:`DetectionHead` gives them."""
        found: torch.Tensor = self.head(self.forward_features(images))
        return found


class _Features(nn.Module):
    """The last map of a network without classifier."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.network.forward_features(images)
        return found


class _OneMap(nn.Module):
    """The one map that a timm network of feature maps is asked for."""

    def __init__(self, maps: Any) -> None:
        super().__init__()
        self.network, self._index = maps.model, maps.out_indices

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        (found,) = self.network.forward_intermediates(images, indices=self._index, intermediates_only=True)
        return found


def of_network(network: Network, base: nn.Module) -> CompactDetector:
    """A detector over a network of the convolutional families, made for the stride of the base's patches."""
    return CompactDetector(_Features(network.build()), network.widths[-1], _head(base))


def of_timm(name: str, base: nn.Module, channels: int, pretrained: bool) -> CompactDetector:
    """A detector over a timm network: see :func:`timm_backbone`."""
    head = _head(base)
    backbone, width = timm_backbone(name, head.image[0] // head.own_grid[0], channels, pretrained)
    return CompactDetector(backbone, width, head)


def timm_backbone(name: str, stride: int, channels: int, pretrained: bool) -> tuple[nn.Module, int]:
    """A timm network up to its last map of ``stride``, and that map's width.

    Raises:
        UserError: timm makes no maps of it, none of that stride, or pretrained weights cannot be had.
    """
    import timm

    args = {"in_chans": channels, "features_only": True, "feature_cls": "getter"}  # which keeps its parameters' names
    try:
        strides = timm.create_model(name, **args).feature_info.reduction()
        last = max((place for place, one in enumerate(strides) if one == stride), default=None)
        network = None if last is None else timm.create_model(name, **args, out_indices=(last,), pretrained=pretrained)
    except Exception as error:  # timm checks little: no maps, or weights that cannot be had, in errors of any kind
        rule = f"a backbone of timm gives its maps{', with weights from its hub' if pretrained else ''}"
        raise UserError(rule, f"{name}: {type(error).__name__}: {error}", "choose another student") from error
    if network is None:
        rule = "a student that detects has a map of the stride of its base's patches"
        raise UserError(rule, f"{name} with {strides}, patches of {stride} px", "choose another student")
    return _OneMap(network), network.feature_info.channels()[-1]


def _head(base: nn.Module) -> DetectionHead:
    head = head_of(base)
    assert head is not None
    return head
