"""Augmentation as numbered random views of a data set, each of which can be drawn again exactly.

The same ``(policy, seed, view)`` gives the same pixels for the same image, whatever the batches: a
teacher's logits on a view are computed once and stored (TinyViT, arXiv 2207.10666).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from sousvit.data.zoom import Zoom, in_sight
from sousvit.specs import Policy

if TYPE_CHECKING:
    from sousvit.data.detection import DetectionSet, Objects
    from sousvit.data.source import ImageSet

#: Policies that move boxes along with the pixels, which detectors train with.
MOVES_BOXES: tuple[Policy, ...] = ("none", "flip", "crop_flip", "zoom", "zoom_turn")

#: Beta parameters of DeiT (arXiv 2012.12877), and RandAugment's operations and magnitude (of 30).
MIXUP_ALPHA, CUTMIX_ALPHA = 0.8, 1.0
RANDAUGMENT_OPS, RANDAUGMENT_MAGNITUDE = 2, 9


@dataclass(frozen=True)
class Mixing:
    """The other image that is mixed into each one, and how.

    Attributes:
        partner: position of the other image, int64 ``[count]``.
        share: the image's own share of the label, ``[count]``.
        box: ``[count, 4]`` rows and columns (top, bottom, left, right) that come from the partner, or None for mixup.
    """

    partner: torch.Tensor
    share: torch.Tensor
    box: torch.Tensor | None


@dataclass(frozen=True)
class View:
    """One random view of a data set of ``count`` images.

    ``shift`` is int64 ``[count, 2]`` (pixels down and right, in ``[0, 2 * pad]``), ``flip`` bool ``[count]``;
    ``draw_seed`` seeds RandAugment per image, None without it.
    """

    pad: int
    shift: torch.Tensor
    flip: torch.Tensor
    mixing: Mixing | None = None
    draw_seed: int | None = None
    zoom: Zoom | None = None

    @classmethod
    def draw(cls, policy: Policy, count: int, size: tuple[int, int], seed: int, view: int) -> View:
        """Draw a view of ``count`` images of ``size`` (height, width)."""
        draw_seed = seed * 100_003 + view
        generator = torch.Generator().manual_seed(draw_seed)
        pad = 0 if policy in ("none", "flip", "zoom", "zoom_turn") else max(1, round(min(size) / 14))
        shift = torch.randint(0, 2 * pad + 1, (count, 2), generator=generator)
        flip = torch.rand(count, generator=generator) < (0.0 if policy == "none" else 0.5)
        mixing = _draw_mixing(policy, count, size, generator) if policy in ("mixup", "cutmix") else None
        zoom = Zoom.draw(count, size, policy == "zoom_turn", generator) if policy in ("zoom", "zoom_turn") else None
        return cls(pad, shift, flip, mixing, draw_seed if policy == "randaugment" else None, zoom)

    def read(self, data: ImageSet, positions: torch.Tensor) -> torch.Tensor:
        """The view of the images at ``positions`` ``[B]`` of ``data``, uint8 ``[B, C, H, W]``."""
        images = self.apply(data.images(positions), positions)
        if self.mixing is None:
            return images
        partners = self.mixing.partner[positions]
        others = self.apply(data.images(partners), partners)
        if self.mixing.box is not None:
            return torch.where(_inside(self.mixing.box[positions], data.size), others, images)
        share = self.mixing.share[positions, None, None, None]
        return (share * images + (1 - share) * others).round().to(torch.uint8)

    def targets(self, labels: torch.Tensor, positions: torch.Tensor, num_classes: int) -> torch.Tensor:
        """Labels of the images at ``positions``: classes ``[B]``, or shares ``[B, classes]`` where images are mixed."""
        own = labels[positions]
        if self.mixing is None:
            return own
        share = self.mixing.share[positions, None]
        other = labels[self.mixing.partner[positions]]
        return share * F.one_hot(own, num_classes) + (1 - share) * F.one_hot(other, num_classes)

    def objects(self, data: DetectionSet, positions: torch.Tensor) -> list[Objects]:
        """Objects of the images at ``positions`` ``[B]``, their boxes as in this view; those out of sight are left out.

        Only for the policies of :data:`MOVES_BOXES`.
        """
        found = data.targets(positions)
        return [self._moved(one, place, data.size) for one, place in zip(found, positions.tolist(), strict=True)]

    def _moved(self, objects: Objects, position: int, size: tuple[int, int]) -> Objects:
        boxes = objects.boxes
        if bool(self.flip[position]):
            boxes = torch.stack([size[1] - boxes[:, 2], boxes[:, 1], size[1] - boxes[:, 0], boxes[:, 3]], dim=1)
        if self.pad:
            boxes = boxes + (self.pad - self.shift[position].flip(0)).repeat(2)
        if self.zoom is not None:
            boxes = self.zoom.move(boxes, position, size[0])
        return in_sight(replace(objects, boxes=boxes), size)

    def apply(self, images: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """``images`` ``[B, C, H, W]``, those at ``positions`` ``[B]`` of the set, in this view but without mixing."""
        images = self._flipped_and_shifted(images, positions)
        if self.zoom is not None:
            images = self.zoom.apply(images, positions)
        return images if self.draw_seed is None else _randaugmented(images, positions, self.draw_seed)

    def _flipped_and_shifted(self, images: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
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


def _draw_mixing(policy: str, count: int, size: tuple[int, int], generator: torch.Generator) -> Mixing:
    partner = torch.randperm(count, generator=generator)
    alpha = MIXUP_ALPHA if policy == "mixup" else CUTMIX_ALPHA
    share = _beta(alpha, count, generator)
    if policy == "mixup":
        return Mixing(partner, share, None)
    extent = (1 - share).sqrt()[:, None] * torch.tensor(size)
    centre = torch.rand(count, 2, generator=generator) * torch.tensor(size)
    low = (centre - extent / 2).round().clamp_min(0).long()
    high = torch.minimum((centre + extent / 2).round().long(), torch.tensor(size))
    area = (high - low).prod(1) / (size[0] * size[1])
    box = torch.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], dim=1)
    return Mixing(partner, 1 - area, box)


def _beta(alpha: float, count: int, generator: torch.Generator) -> torch.Tensor:
    """Beta(alpha, alpha) samples ``[count]``; torch's own take no generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        samples: torch.Tensor = torch.distributions.Beta(alpha, alpha).sample((count,))
    return samples


def _inside(box: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bool ``[B, 1, H, W]``: the pixels inside each box."""
    rows, columns = torch.arange(size[0])[None, :], torch.arange(size[1])[None, :]
    tall = (rows >= box[:, :1]) & (rows < box[:, 1:2])
    wide = (columns >= box[:, 2:3]) & (columns < box[:, 3:])
    return (tall[:, :, None] & wide[:, None, :])[:, None]


def _randaugmented(images: torch.Tensor, positions: torch.Tensor, seed: int) -> torch.Tensor:
    from torchvision.transforms.v2 import RandAugment

    transform = RandAugment(RANDAUGMENT_OPS, RANDAUGMENT_MAGNITUDE)
    with torch.random.fork_rng(devices=[]):
        out = []
        for image, position in zip(images, positions.tolist(), strict=True):
            torch.manual_seed((seed * 1_000_003 + position) % 2**63)
            out.append(transform(image))
    return torch.stack(out)
