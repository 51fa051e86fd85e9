"""Scale jitter for detection: every image is enlarged or shrunk and placed at random, and its boxes move with it.

Large-scale jitter (Ghiasi et al., arXiv 2012.07177) in a range that keeps small objects visible; optionally upside
down, for images without an up, such as a microscope's.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from sousvit.data.detection import Objects

SCALES = (0.6, 1.6)
#: Value of the pixels around a shrunk image.
GREY = 114.0
#: An object stays while this share of its box is in sight, and both of its sides are at least this many pixels.
VISIBLE, SMALLEST = 0.3, 2.0


@dataclass(frozen=True)
class Zoom:
    """The placement of each of ``count`` images: ``x' = scale * x + offset``, after an optional turn upside down.

    Attributes:
        scale: ``[count]``.
        offset: ``[count, 2]``, x and y in pixels.
        upside_down: bool ``[count]``.
    """

    scale: torch.Tensor
    offset: torch.Tensor
    upside_down: torch.Tensor

    @classmethod
    def draw(cls, count: int, size: tuple[int, int], turns: bool, generator: torch.Generator) -> Zoom:
        """Draw log-uniform scales and uniform offsets: a shrunk image lies in the frame, an enlarged one covers it."""
        low, high = (log(scale) for scale in SCALES)
        scale = (low + (high - low) * torch.rand(count, generator=generator)).exp()
        room = torch.tensor([size[1], size[0]]) * (1 - scale[:, None])
        offset = room * torch.rand(count, 2, generator=generator)
        upside_down = torch.rand(count, generator=generator) < (0.5 if turns else 0.0)
        return cls(scale, offset, upside_down)

    def apply(self, images: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """``images``, uint8 ``[B, C, H, W]`` at ``positions`` ``[B]`` of the set, turned, scaled and moved."""
        upside = self.upside_down[positions, None, None, None]
        images = torch.where(upside, images.flip(2), images).float() - GREY
        size = torch.tensor([images.shape[3], images.shape[2]])
        scale = self.scale[positions]
        # affine_grid maps places of the result in [-1, 1] to places of the image.
        shift = (1 - 2 * self.offset[positions] / size) / scale[:, None] - 1
        theta = torch.zeros(len(images), 2, 3)
        theta[:, 0, 0] = theta[:, 1, 1] = 1 / scale
        theta[:, :, 2] = shift
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        found = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return (found + GREY).round().clamp(0, 255).to(torch.uint8)

    def move(self, boxes: torch.Tensor, position: int, height: int) -> torch.Tensor:
        """Boxes ``[n, 4]`` of the image at ``position``, which is ``height`` pixels high; not clipped."""
        if bool(self.upside_down[position]):
            boxes = torch.stack([boxes[:, 0], height - boxes[:, 3], boxes[:, 2], height - boxes[:, 1]], dim=1)
        return boxes * self.scale[position] + self.offset[position].repeat(2)


def in_sight(objects: Objects, size: tuple[int, int]) -> Objects:
    """The objects that are still visible in an image of ``size`` (height, width), clipped to it."""
    from sousvit.data.detection import Objects

    limit = torch.tensor([size[1], size[0]] * 2)
    clipped = objects.boxes.clamp_min(0).minimum(limit)
    before, after = (box[:, 2:] - box[:, :2] for box in (objects.boxes, clipped))
    kept = (after.clamp_min(0).prod(1) >= VISIBLE * before.prod(1)) & (after >= SMALLEST).all(1)
    return Objects(clipped, objects.labels).select(kept)
