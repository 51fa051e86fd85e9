"""A user's own transform, applied once to every image of a data set.

What comes out is stored without loss beside the run, so that worker processes and later sessions see the same pixels
without the user's code. For instance torchvision's::

    Compose([Resize(256), CenterCrop(224), ToTensor(), Normalize(mean, std)])

whose last step is left to the model: what is stored are pixels, which augmentation and calibration work on.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sousvit.data.dataset import write_dataset
from sousvit.data.source import ImageSet
from sousvit.data.splits import Splits
from sousvit.errors import UserError
from sousvit.models.preprocess import MOST_WORDS, Preprocess, eight_bits
from sousvit.specs import DataSpec

Transform = Callable[[Any], Any]


def write_transformed(data: DataSpec, transform: Transform, folder: Path) -> tuple[DataSpec, Preprocess]:
    """The data as files in ``folder``, with ``transform`` applied, and what is left to be done to them.

    Args:
        data: resolved.
        transform: from a decoded PIL image to a PIL image, uint8 or float in [0, 1] ``[C, H, W]``; or torchvision's
            ``Compose`` of such steps and a ``Normalize`` at the end.

    Raises:
        UserError: there are no images, it is no such transform, or its images differ in size.
    """
    if data.kind != "labelled" or data.task == "detection":
        raise UserError("a transform is applied to labelled images of classes", data.format, "give sousvit.Preprocess")
    pixels, norm = _without_normalize(transform)
    splits = Splits(data, (1, 1), 3)  # of any size: the images are read as they lie there
    parts = {"train": splits.train, "validation": splits.validation}
    if data.has_test:
        parts["test"] = splits.look_at_test()
    sets = {part: _Transformed(images, pixels, part) for part, images in parts.items()}
    paths = {part: str(write_dataset(images, folder, part)) for part, images in sets.items()}
    kept = data.model_dump(include={"calibration", "split_seed"})
    how = Preprocess(size=sets["train"].size, transform=in_words(transform), **norm)
    return DataSpec(format="parquet", **paths, **kept), how


def in_words(transform: Transform) -> str:
    """What a transform calls itself, on one line, without where it lies in memory.

    ``Compose(Resize(size=256), ToTensor())`` for instance, or the name of a function.
    """
    said = " ".join(repr(transform).split())
    if " at 0x" in said:
        said = getattr(transform, "__qualname__", type(transform).__qualname__)
    return said[:MOST_WORDS]


def _without_normalize(transform: Transform) -> tuple[Transform, dict[str, tuple[float, ...]]]:
    """The transform without a ``Normalize`` at its end, and what that says."""
    steps = list(getattr(transform, "transforms", []))
    last = steps[-1] if steps else None
    if type(last).__name__ != "Normalize":
        return transform, {}
    norm = {key: tuple(map(float, np.asarray(getattr(last, key)).ravel())) for key in ("mean", "std")}
    without: Any = type(transform)  # torchvision's or timm's Compose
    return without(steps[:-1]), norm


class _Transformed:
    """The data set of transformed images, ``(pixels, label)`` each."""

    def __init__(self, images: ImageSet, transform: Transform, part: str) -> None:
        self._images, self._transform, self._part = images, transform, part
        self.size: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, position: int) -> tuple[Any, int]:
        row = int(self._images.indices[position])
        try:
            pixels = self._transform(_as_loaders_give_it(self._images.source.read(row)))
        except UserError:
            raise
        except Exception as error:  # a user's own code
            what = f"{type(error).__name__}: {error} at image {row} of {self._part}"
            raise UserError("preprocess takes a PIL image", what, "correct the transform") from error
        size = tuple(pixels.shape[-2:]) if isinstance(pixels, torch.Tensor) else (pixels.height, pixels.width)
        if self.size not in (None, size):
            what = f"{size} after {self.size} in {self._part}"
            raise UserError("preprocess gives images of one size", what, "end it with a crop")
        self.size = size
        return pixels, int(self._images.labels[position])


def _as_loaders_give_it(image: Image.Image) -> Image.Image:
    """Grey or RGB: what torchvision's and timm's readers hand to a transform."""
    return image if image.mode in ("L", "RGB") else eight_bits(image).convert("RGB")
