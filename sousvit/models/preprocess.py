"""Preprocessing: how an image reaches a model, as a value that a checkpoint, a budget or Python code gives.

For instance what timm's ``vit_base_patch16_224`` was evaluated with: the short side to 248 pixels, then the centre::

    Preprocess(resize="short", size=(224, 224), crop_pct=0.9, interpolation="bicubic", mean=(0.5,), std=(0.5,))

:meth:`Preprocess.fit` gives the pixels that timm's and Hugging Face's own evaluation transforms give; what their
configurations say is read by :mod:`sousvit.models.preprocess_config`. Importing this file loads no torch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_serializer, model_validator

from sousvit.checked import Checked
from sousvit.errors import UserError
from sousvit.files import content_hash

if TYPE_CHECKING:
    from PIL import Image

#: Pixels of a side, at most: an image of so many squared has 200 MB.
MOST_SIDE = 8192
Side = Annotated[int, Field(ge=1, le=MOST_SIDE)]
Size = tuple[Side, Side]
Finite = Annotated[float, Field(allow_inf_nan=False)]
#: Resampling filters by their usual names, in the order of PIL's numbers for them.
Interpolation = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
#: Pixels of an image, at most, decoded or resized: 16384 x 16384, a gigabyte. PIL's own bound, 179 megapixels, is below
#: what scanners and satellites deliver; without any, a file of some kilobytes fills the memory.
MOST_PIXELS = 1 << 28
#: Characters that say what a user's own transform is, at most.
MOST_WORDS = 300
#: PIL's mode by the number of channels that a model takes.
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def _both_sides(value: object) -> object:
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value


class Preprocess(Checked):
    """The steps from an image file to a model's input, in this order.

    Attributes:
        exif: whether an image is turned as its EXIF orientation says. timm and torchvision do not, Hugging Face does.
        resize: ``short`` (the short side to the size, aspect ratio kept), ``squash`` (both sides, whatever the aspect
            ratio), or ``longest`` (the long side to the size; borders are filled).
        size: (height, width) of the input; one number for a square. By default the model's own.
        crop_pct: share of the resized side that the centre crop keeps: 224 pixels at 0.875 are cut out of 256.
        resize_size: the size to resize to, in place of ``crop_pct``.
        interpolation: the resampling filter.
        odd_margin: where the crop begins when its margins differ by a pixel: ``round`` (half to even, as torchvision
            and timm do), or ``floor`` (Hugging Face).
        fill: per channel, 0..255, of the borders of ``longest``; by default the mean, as timm does. A crop that is
            larger than the resized image is filled with black.
        channel_order: ``rgb`` or ``bgr``.
        rescale: factor of pixels 0..255 before they are normalised.
        mean, std: per channel, of rescaled pixels. By default the model's own.
        transform: in words, a transform of the user's own that images went through before these steps; nobody else has
            it, so files of others cannot be fed to the model.

    Raises:
        UserError: ``crop_pct`` and ``resize_size`` together.
    """

    exif: bool = False
    resize: Literal["short", "squash", "longest"] = "short"
    size: Annotated[Size | None, BeforeValidator(_both_sides)] = None
    crop_pct: Annotated[float, Field(gt=0, le=1)] = 1.0
    resize_size: Annotated[Size | None, BeforeValidator(_both_sides)] = None
    interpolation: Interpolation = "bicubic"
    odd_margin: Literal["round", "floor"] = "round"
    fill: tuple[Annotated[int, Field(ge=0, le=255)], ...] | None = None
    channel_order: Literal["rgb", "bgr"] = "rgb"
    rescale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1 / 255
    mean: tuple[Finite, ...] | None = None
    std: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] | None = None
    transform: Annotated[str, Field(max_length=MOST_WORDS)] | None = None

    @model_validator(mode="after")
    def _one_resize(self) -> Preprocess:
        if self.resize_size is not None and self.crop_pct != 1.0:
            both = f"crop_pct {self.crop_pct} and resize_size {list(self.resize_size)}"
            raise UserError("an image is resized once", both, "remove one of the two")
        return self

    def over(self, other: Preprocess | None) -> Preprocess:
        """The same, with what was not given taken from ``other``."""
        if other is None:
            return self
        given = {name: getattr(self, name) for name in self.model_fields_set}
        if {"crop_pct", "resize_size"} & set(given):  # they say the same thing in two ways: one replaces the other
            given = {"crop_pct": 1.0, "resize_size": None, **given}
        return Preprocess(**{**{name: getattr(other, name) for name in other.model_fields_set}, **given})

    @model_serializer
    def _given(self) -> dict[str, Any]:
        """What was given alone, so that a default is not taken for the user's word when it is read again."""
        return {name: getattr(self, name) for name in Preprocess.model_fields if name in self.model_fields_set}

    def in_pixels(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and std, a value a channel, of pixels in [0, 1], as every runtime's code takes them; 0.5 by default.

        Raises:
            UserError: another number of values than channels.
        """
        scale = 1 / (255 * self.rescale)
        mean, std = (per_channel(getattr(self, name) or (0.5,), channels, name) for name in ("mean", "std"))
        return tuple(value * scale for value in mean), tuple(value * scale for value in std)

    @property
    def steps(self) -> dict[str, Any]:
        """What happens to the pixels before they are normalised, in full."""
        other = ("size", "mean", "std", "rescale")
        steps = {name: getattr(self, name) for name in Preprocess.model_fields if name not in other}
        if self.resize != "longest":
            del steps["fill"]
        elif self.fill is None:
            steps["fill"] = self._mean_colour
        if self.transform is None:
            del steps["transform"]
        return steps

    @property
    def geometry(self) -> str:
        """Identity of :attr:`steps`, "" for the default; what a user's own transform made are other images."""
        steps = {name: value for name, value in self.steps.items() if name != "transform"}
        usual = {name: Preprocess.model_fields[name].default for name in steps}
        return "" if steps == usual else content_hash(steps)

    def resized(self, width: int, height: int, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) that an image of ``width`` x ``height`` has before the crop to ``size`` (height, width)."""
        high, wide = self.resize_size or (math.floor(size[0] / self.crop_pct), math.floor(size[1] / self.crop_pct))
        if self.resize == "squash":
            return wide, high
        if self.resize == "short" and high == wide:  # as torchvision: the long side is cut off to whole pixels
            short = min(width, height)
            return (wide, int(high * height / short)) if width <= height else (int(wide * width / short), high)
        choose = max if self.resize == "longest" else min
        ratio = choose(height / high, width / wide)
        return max(1, round(width / ratio)), max(1, round(height / ratio))

    def fit(self, image: Image.Image, size: tuple[int, int], channels: int) -> Image.Image:
        """The pixels that the model sees, before they are rescaled and normalised.

        Args:
            image: as it was decoded.
            size: (height, width) of the input.
            channels: 1 for grey, 3 for RGB, 4 with alpha.

        Returns:
            8 bits a channel, of the mode that suits ``channels``.

        Raises:
            ValueError: pixels whose range nobody knows, no alpha channel where the model takes one, or a sliver that
                would be resized to more than :data:`MOST_PIXELS`.
        """
        from PIL import Image, ImageOps

        if self.exif:
            image = ImageOps.exif_transpose(image)
        if channels in (2, 4) and not image.has_transparency_data:
            raise ValueError(f"mode {image.mode} without the alpha channel that the model takes")
        image = eight_bits(image).convert(MODES[channels])
        if self.channel_order == "bgr" and channels >= 3:
            bands = image.split()
            image = Image.merge(image.mode, (*bands[2::-1], *bands[3:]))
        target = self.resized(image.width, image.height, size)
        if target[0] * target[1] > MOST_PIXELS:
            what = f"{image.width} x {image.height} pixels, which resizing makes {target[0]:,} x {target[1]:,}"
            raise ValueError(f"{what}: a sliver that no crop shows")
        if image.size != target:
            image = image.resize(target, Image.Resampling[self.interpolation.upper()])
        return self._cropped(image, size)

    def _cropped(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        """The centre at ``size``, with borders where the image is smaller."""
        from PIL import Image

        height, width = size
        if image.size == (width, height):
            return image
        if image.width < width or image.height < height:  # the larger half of an odd border is right and below
            whole = Image.new(image.mode, (max(width, image.width), max(height, image.height)), self._fill(image.mode))
            whole.paste(image, ((whole.width - image.width) // 2, (whole.height - image.height) // 2))
            image = whole
        margins = ((image.width - width) / 2, (image.height - height) / 2)
        left, top = (round(margin) if self.odd_margin == "round" else int(margin) for margin in margins)
        return image.crop((left, top, left + width, top + height))

    @property
    def _mean_colour(self) -> tuple[int, ...]:
        return tuple(round(value / self.rescale) for value in self.mean or (0,))

    def _fill(self, mode: str) -> tuple[int, ...] | int:
        bands = len(mode)
        if self.resize != "longest":
            return (0,) * bands if bands > 1 else 0
        colour = self.fill or self._mean_colour
        colour = (colour * bands)[:bands] if len(colour) == 1 else colour[:bands]
        return colour if bands > 1 else colour[0]


#: Where nobody says anything.
DEFAULT_PREPROCESS = Preprocess()
#: As ``sousvit train`` feeds images: the short side to the size, the centre; said in full, so that nothing replaces it.
WHOLE_IMAGE = Preprocess(exif=False, resize="short", crop_pct=1.0, interpolation="bicubic", odd_margin="round")


def per_channel(values: tuple[float, ...], channels: int, what: str) -> tuple[float, ...]:
    """``values``, one a channel: one value serves all channels, and grey images take the mean of several.

    Raises:
        UserError: another number of them.
    """
    if len(values) == channels:
        return tuple(map(float, values))
    if len(values) == 1 or channels == 1:
        return (sum(map(float, values)) / len(values),) * channels
    rule = f"model.{what} has one value a channel"
    raise UserError(rule, f"{len(values)} values for {channels} channels", "correct it")


def eight_bits(image: Image.Image) -> Image.Image:
    """``image`` with 8 bits a channel: 16 bits are scaled from their whole range, floats from [0, 1].

    Raises:
        ValueError: whole numbers of 32 bits, or floats outside of [0, 1]: nobody knows which value is white.
    """
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I;16"):
        return Image.fromarray(np.rint(np.asarray(image).astype(np.float64) / 257).astype(np.uint8))
    if image.mode not in ("I", "F"):
        return image
    pixels = np.asarray(image)
    low, high = float(pixels.min()), float(pixels.max())
    if image.mode == "F" and low >= 0 and high <= 1:
        return Image.fromarray(np.rint(pixels * 255).astype(np.uint8))
    kind = "32-bit" if image.mode == "I" else "float"
    raise ValueError(f"{kind} pixels from {low:g} to {high:g}, of which nobody knows what is white")
