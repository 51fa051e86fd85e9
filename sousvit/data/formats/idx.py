"""IDX files (MNIST's format), plain or gzip: ``...images...`` with ``...labels...`` beside it."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from sousvit.data.formats.format import Format, Part
from sousvit.data.layout import labels_of
from sousvit.data.source import require_labels
from sousvit.errors import UserError
from sousvit.files import file_hash, write_atomic


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array of an IDX file.

    Raises:
        UserError: the file is cut short, or holds anything but unsigned bytes.
    """
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        zero, kind, dimensions = struct.unpack(">HBB", data[:4])
        if zero != 0 or kind != 0x08:
            raise ValueError("no header of unsigned bytes")
        shape = struct.unpack(f">{dimensions}I", data[4 : 4 + 4 * dimensions])
        if len(data) < 4 + 4 * dimensions + math.prod(shape):
            raise ValueError(f"{len(data)} bytes for an array of {list(shape)}")
        return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions, count=math.prod(shape)).reshape(shape)
    except (struct.error, ValueError, EOFError, OSError, zlib.error) as error:
        raise UserError("an IDX file must be whole", f"{path}: {error}", "fetch it again") from error


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
        self.name = str(path)
        self.fingerprint = "".join(file_hash(file) for file in files)
        self._images = read_idx(path)
        labels = read_idx(labels_path) if labelled else np.zeros(len(self._images), np.int64)
        if self._images.ndim != 3 and self._images.shape[3:] != (3,):
            raise UserError(
                "IDX images are [N, H, W] or [N, H, W, 3]", f"{list(self._images.shape)} in {path}", "correct the path"
            )
        if labels.ndim != 1:
            raise UserError("IDX labels are [N]", f"{list(labels.shape)} in {labels_path}", "correct the path")
        self.labels = require_labels(labels, self.name)
        self.class_names: list[str] = []
        if len(self._images) != len(self.labels):
            raise UserError(
                "IDX images and labels must be equally many",
                f"{len(self._images)} and {len(self.labels)} in {path}",
                "fetch both again",
            )

    def read(self, index: int) -> Image.Image:
        """Image ``index``."""
        return Image.fromarray(self._images[index])

    def content(self, index: int) -> bytes:
        """The pixels of image ``index``."""
        return self._images[index].tobytes()
