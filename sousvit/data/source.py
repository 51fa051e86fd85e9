"""The contract of a data source, and :class:`ImageSet`, the form in which every room sees images.

A source knows where labelled images lie and reads one at a time; an ``ImageSet`` is a selection of
them at the model's input size. Small sets are decoded once and kept in memory.
"""

from __future__ import annotations

import io
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from sousvit.errors import SharedInputError, UserError, one_line
from sousvit.files import content_hash, open_file, require_file, too_large
from sousvit.models.preprocess import DEFAULT_PREPROCESS, MOST_PIXELS, Preprocess

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Sets of at most this many decoded bytes stay in memory.
CACHE_BYTES = 2 << 30

#: Bytes of an encoded image, at most: more than one of so many pixels needs.
MOST_ENCODED = 1 << 30
#: Bytes of a file from which on its header is looked at before it is read.
_LARGE = 64 << 20
#: Images of a part of the data, at most: twice as many as the largest public sets have.
MOST_IMAGES = 1 << 25
#: Classes, at most: fifty times as many as ImageNet has in full. A larger label is no number of a class.
MOST_CLASSES = 1 << 20

# For the whole process: PIL knows no other way. Its warning, at the bound, becomes its error, at twice the bound.
Image.MAX_IMAGE_PIXELS = MOST_PIXELS
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


class Source(Protocol):
    """Labelled images somewhere on disk.

    ``name`` and ``fingerprint`` identify the content for caches; ``labels`` is int64 ``[N]``, a class an image (other
    targets stand in sources of their own, see :mod:`sousvit.data.detection`); ``class_names`` may be empty when
    the format has none.

    A source may besides have ``content(index)``, the file of an image or its bytes, so that parts that share images
    are found without decoding; ``files`` where all images are files; and ``notes`` of what was left out or assumed.
    """

    name: str
    fingerprint: str
    labels: np.ndarray
    class_names: list[str]

    def read(self, index: int) -> Image.Image:
        """Decode image ``index``; raises :class:`SharedInputError` when it is corrupt."""
        ...


@cache
def _kinds_of_images() -> tuple[str, ...]:
    """What PIL decodes itself: on EPS, which is a program, it would start Ghostscript."""
    Image.init()
    return tuple(kind for kind in Image.ID if kind != "EPS")


def _opened(stream: BinaryIO) -> Image.Image:
    """An image of which the header alone was read.

    Raises:
        Exception: PIL's decoders raise errors of every kind on broken files; or ValueError for too many pixels.
    """
    image = Image.open(stream, formats=_kinds_of_images())
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels, and at most {MOST_PIXELS:,} are read")
    return image


def _undecoded(error: Exception, where: str) -> SharedInputError:
    """The error of bytes that are no image."""
    said = "no known image format" if isinstance(error, UnidentifiedImageError) else one_line(error)
    return SharedInputError("every image must be readable", f"{where}: {said}", "repair or remove it")


def decode_image(data: bytes, where: str) -> Image.Image:
    """Decode an encoded image (JPEG, PNG, ...).

    Raises:
        SharedInputError: the bytes are no readable image, or one of more than :data:`MOST_PIXELS`; ``where`` names the
            row or file.
    """
    try:
        image = _opened(io.BytesIO(data))
        image.load()
    except Exception as error:
        raise _undecoded(error, where) from error
    return image


def image_dimensions(file: Path) -> tuple[int, int]:
    """(width, height) from the header of an image file.

    Raises:
        SharedInputError: it is gone, or no readable image.
    """
    try:
        with open_file(file) as stream:
            return _opened(stream).size
    except SharedInputError:
        raise
    except Exception as error:
        raise _undecoded(error, str(file)) from error


def decode_file(file: Path) -> Image.Image:
    """Decode an image file.

    Raises:
        SharedInputError: it is gone, or no readable image.
    """
    try:
        size = require_file(file)
        if size > MOST_ENCODED:
            raise too_large(file, "an image", size, MOST_ENCODED)
        if size > _LARGE:
            image_dimensions(file)
        with open_file(file) as stream:
            data = stream.read(size)
    except OSError as error:
        raise SharedInputError(
            "every image must be readable", f"{file}: {error.strerror}", "repair or remove it"
        ) from error
    return decode_image(data, str(file))


class ImageSet:
    """A selection of a source's images as uint8 tensors ``[N, C, H, W]`` at one size.

    Args:
        source: where the images come from.
        indices: which of them, in order.
        size: (height, width) in pixels.
        channels: 3 for RGB, 1 for grey.
        preprocess: how a decoded image becomes one of that size.
    """

    def __init__(
        self,
        source: Source,
        indices: np.ndarray,
        size: tuple[int, int],
        channels: int = 3,
        preprocess: Preprocess = DEFAULT_PREPROCESS,
    ) -> None:
        self.source, self.indices = source, np.asarray(indices, dtype=np.int64)
        self.size, self.channels, self.preprocess = size, channels, preprocess
        self.labels = torch.from_numpy(np.ascontiguousarray(source.labels[self.indices]))
        self._cache: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def class_names(self) -> list[str]:
        """Names by label, or an empty list."""
        return self.source.class_names

    @property
    def num_classes(self) -> int:
        """One more than the largest label."""
        return int(self.labels.max()) + 1

    def targets(self, positions: torch.Tensor) -> Any:
        """What is to be predicted of the images at ``positions``: labels ``[B]``."""
        return self.labels[positions]

    def fit(self, image: Image.Image) -> Image.Image:
        """A decoded image at this set's size and channels.

        Raises:
            ValueError: see :meth:`.Preprocess.fit`.
        """
        return self.preprocess.fit(image, self.size, self.channels)

    @cached_property
    def fingerprint(self) -> str:
        """Content identity: the source, the selection, the size, and how images get it."""
        geometry = [self.preprocess.geometry] if self.preprocess.geometry else []
        return content_hash(self.source.fingerprint, self.indices.tobytes(), self.size, self.channels, *geometry)

    def subset(self, positions: Sequence[int] | np.ndarray | torch.Tensor) -> ImageSet:
        """The images at ``positions``, sharing decoded pixels where they are in memory."""
        positions = np.asarray(positions, dtype=np.int64)
        chosen = type(self)(self.source, self.indices[positions], self.size, self.channels, self.preprocess)
        if self._cache is not None:
            chosen._cache = self._cache[torch.from_numpy(positions)]
        return chosen

    def head(self, count: int) -> ImageSet:
        """The first ``count`` images (all of them when there are fewer)."""
        return self if count >= len(self) else self.subset(np.arange(count))

    def spread(self, count: int, seed: int = 0) -> ImageSet:
        """``count`` images drawn without replacement, the same for the same seed."""
        if count >= len(self):
            return self
        return self.subset(np.sort(np.random.default_rng(seed).permutation(len(self))[:count]))

    def images(self, positions: torch.Tensor | None = None) -> torch.Tensor:
        """The uint8 images ``[B, C, H, W]`` at ``positions`` (all by default)."""
        if self._cache is None and len(self) * self.channels * self.size[0] * self.size[1] <= CACHE_BYTES:
            self._cache = self._decode(self.indices)
        if self._cache is not None:
            return self._cache if positions is None else self._cache[positions]
        return self._decode(self.indices if positions is None else self.indices[positions.numpy()])

    def _decode(self, indices: np.ndarray) -> torch.Tensor:
        # Not a tensor: the caller may be in inference mode, which threads do not inherit.
        out = np.empty((len(indices), self.channels, *self.size), dtype=np.uint8)

        def one(position: int) -> None:
            row = int(indices[position])
            image = self.source.read(row)
            try:
                array = np.array(self.fit(image))
            except ValueError as error:
                where = f"{self.source.name}, image {row}: {error}"
                action = "convert it to 8 bits a channel, as the model was trained on"
                raise SharedInputError("every image suits the model", where, action) from error
            out[position] = array.reshape(*self.size, self.channels).transpose(2, 0, 1)

        large = self.size[0] * self.size[1] > 64 * 64
        if large:
            with ThreadPoolExecutor() as pool:
                list(pool.map(one, range(len(indices))))
        else:
            for position in range(len(indices)):
                one(position)
        return torch.from_numpy(out)


def require_count(count: int, where: str) -> None:
    """Check how many images there are, before any memory is taken for them.

    Raises:
        UserError: none, or more than :data:`MOST_IMAGES`.
    """
    if count < 1:
        raise UserError("a data set must hold images", f"none in {where}", "correct the path")
    if count > MOST_IMAGES:
        rule = f"a part of the data has at most {MOST_IMAGES:,} images"
        raise UserError(rule, f"{count:,} in {where}", "name fewer files")


def require_labels(labels: Any, where: str) -> np.ndarray:
    """Labels as int64 ``[N]``.

    Raises:
        UserError: there are none, or some are negative, no whole numbers, or too large to be numbers of classes.
    """
    array = np.asarray(labels)
    require_count(array.size, where)
    whole = array.dtype.kind in "iu"
    if not whole or array.ndim != 1 or array.min() < 0 or array.max() >= MOST_CLASSES:
        extreme = f"smallest {array.min()}" if whole and array.min() < 0 else f"largest {array.max()}" if whole else ""
        seen = extreme or str(array.dtype)
        seen += f" {list(array.shape)}" if array.ndim != 1 else ""
        rule = f"labels must be whole numbers from 0, below {MOST_CLASSES:,}"
        raise UserError(rule, f"{seen} in {where}", "re-encode the labels")
    return array.astype(np.int64)
