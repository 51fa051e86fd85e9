"""IDX files (MNIST's format), plain or gzip: ``...images...`` with ``...labels...`` beside it."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from gzip import GzipFile
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from sousvit.data.formats.format import Format, Part
from sousvit.data.layout import labels_of
from sousvit.data.source import require_count, require_labels
from sousvit.errors import UserError
from sousvit.files import file_hash, open_inflated, require_file, too_large, write_atomic

#: Bytes of an array, at most: a third more than EMNIST, the largest set of this form.
MOST_BYTES = 1 << 30
#: Deflate makes at most so many bytes of one.
_MOST_INFLATED = 1032


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Everything that a cut, foreign or unreadable file fails with, as one line."""
    try:
        yield
    except UserError:
        raise
    except (struct.error, ValueError, EOFError, OSError, zlib.error) as error:
        raise UserError("an IDX file must be whole", f"{path}: {error}", "fetch it again") from error


def _header(stream: BinaryIO) -> tuple[int, ...]:
    """The shape of the array that follows."""
    zero, kind, dimensions = struct.unpack(">HBB", stream.read(4))
    if zero != 0 or kind != 0x08:
        raise ValueError("no header of unsigned bytes")
    return struct.unpack(f">{dimensions}I", stream.read(4 * dimensions))


def idx_shape(path: Path) -> tuple[int, ...]:
    """The shape that an IDX file announces; nothing else of it is read.

    Raises:
        UserError: it is no IDX file, or announces more than it can hold or than is read.
    """
    with _whole(path), open_inflated(path) as stream:
        shape, stored = _header(stream), require_file(path)
        size = math.prod(shape)
        if size > stored * (_MOST_INFLATED if isinstance(stream, GzipFile) else 1):
            raise ValueError(f"{stored} bytes for an array of {list(shape)}")
        if size > MOST_BYTES:
            raise too_large(path, "an IDX array", size, MOST_BYTES)
        return shape


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array of an IDX file.

    Raises:
        UserError: the file is cut short, announces too much, or holds anything but unsigned bytes.
    """
    idx_shape(path)  # before memory is taken for it
    with _whole(path), open_inflated(path) as stream:
        shape = _header(stream)
        data = np.empty(math.prod(shape), np.uint8)
        found = _fill(stream, data.data)
        if found < len(data):
            raise ValueError(f"{found} bytes for an array of {list(shape)}")
        stream.read(1)  # at its end gzip compares the checksum
        return data.reshape(shape)


def _fill(stream: BinaryIO, place: memoryview) -> int:
    """How many bytes of ``place`` the stream had."""
    found = 0
    while found < len(place):
        count = stream.readinto(place[found : found + (1 << 24)])  # type: ignore[attr-defined]
        if not count:
            break
        found += count
    return found


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write a uint8 array as gzip IDX (reproducible bytes: no time stamp)."""
    header = struct.pack(">HBB", 0, 0x08, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    write_atomic(path, gzip.compress(header + array.astype(np.uint8).tobytes(), compresslevel=9, mtime=0))


class Idx(Format):
    """``format: idx``."""

    name = "idx"

    def suits(self, path: Path) -> bool:
        return path.is_file() and (".idx" in path.name or "-idx" in path.name)

    def open(self, part: Part) -> IdxSource:
        return IdxSource(part.path, part.labelled)


class IdxSource:
    """Images ``[N, H, W]`` or ``[N, H, W, 3]`` and labels ``[N]`` in two IDX files.

    Args:
        path: of the images.
        labelled: False needs no file of labels; all are 0.
    """

    def __init__(self, path: Path, labelled: bool = True) -> None:
        labels_path = labels_of(path)
        rule = "IDX data names its images file, with the labels file beside it"
        if "images" not in path.name:
            raise UserError(rule, path, "name the file whose name says images")
        files = (path, labels_path) if labelled else (path,)
        for needed in files:
            if not needed.is_file():
                raise UserError(rule, f"no file {needed}", "correct the path")
        self.name, self.class_names = str(path), list[str]()
        shape = idx_shape(path)
        if not (len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)):
            raise UserError("IDX images are [N, H, W] or [N, H, W, 3]", f"{list(shape)} in {path}", "correct the path")
        require_count(shape[0], self.name)
        if 0 in shape:
            raise UserError("an image has pixels", f"{list(shape)} in {path}", "fetch it again")
        if labelled:
            _require_one_label_each(shape[0], idx_shape(labels_path), path, labels_path)
        self._images = read_idx(path)
        self.labels = require_labels(read_idx(labels_path) if labelled else np.zeros(shape[0], np.int64), self.name)
        self.fingerprint = "".join(file_hash(file) for file in files)

    def read(self, index: int) -> Image.Image:
        """Image ``index``."""
        return Image.fromarray(self._images[index])

    def content(self, index: int) -> bytes:
        """The pixels of image ``index``."""
        return self._images[index].tobytes()


def _require_one_label_each(count: int, labels: tuple[int, ...], path: Path, labels_path: Path) -> None:
    if len(labels) != 1:
        raise UserError("IDX labels are [N]", f"{list(labels)} in {labels_path}", "correct the path")
    if labels[0] != count:
        rule, received = "IDX images and labels must be equally many", f"{count} and {labels[0]} in {path}"
        raise UserError(rule, received, "fetch both again")
