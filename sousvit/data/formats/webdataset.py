"""WebDataset: tar files in which the files of one sample follow each other (``0001.jpg``, ``0001.cls``)."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import Image

from sousvit.data.formats.folder import IMAGE_SUFFIXES
from sousvit.data.formats.format import Format, Part
from sousvit.data.formats.table import LABEL_COLUMNS
from sousvit.data.layout import readable
from sousvit.data.numbering import from_words, number_of
from sousvit.data.source import MOST_ENCODED, decode_image, require_count, require_labels
from sousvit.errors import UserError
from sousvit.files import file_hash, open_file, too_large
from sousvit.specs import Columns

#: Endings that hold a label.
LABEL_ENDINGS = ("cls", "label", "json", "txt")
#: Bytes of a file that holds a label, at most; texts and boxes beside it may be longer, and are not read.
_MOST_LABEL = 1 << 20
#: Bytes of a header, at most: a name and what the file system says of a file. Python's reader takes any.
_MOST_HEADER = 1 << 15


class WebDataset(Format):
    """``format: webdataset``."""

    name = "webdataset"

    def suits(self, path: Path) -> bool:
        return path.is_file() and path.suffix == ".tar"

    def open(self, part: Part) -> WebDatasetSource:
        return WebDatasetSource(part.path, part.labelled, part.spec.columns)


class WebDatasetSource:
    """The samples of one tar; several are named as a list, by a glob or with braces (``train-{000..009}.tar``).

    Labels are numbers or words in the file called ``cls``, or stand in ``json`` under ``label`` (or the like).

    Args:
        path: an uncompressed tar file; images are read from their places in it.
        labelled: False needs no labels, all are 0.
        columns: the endings of images and labels; found where they are not named.

    Raises:
        UserError: no tar, or a sample without an image or label.
    """

    def __init__(self, path: Path, labelled: bool = True, columns: Columns | None = None) -> None:
        self.name, self._path = str(path), path
        asked = columns or Columns()
        samples = _samples(path)
        self._places, labels = [], []
        with readable(path), open_file(path) as stream:
            for key, members in samples.items():
                image = _image_ending(members, asked.image)
                if image is None:
                    ending = asked.image or "jpg, png or the like"
                    raise UserError("every sample has its image", f"no {ending} of {key} in {path}", "add or remove it")
                self._places.append((*members[image], key))
                if labelled:
                    labels.append(_label(stream, members, asked.label, f"{key} in {path}"))
        require_count(len(self._places), self.name)
        self.labels, self.class_names = np.zeros(len(self._places), np.int64), list[str]()
        if labelled and any(isinstance(label, str) for label in labels):
            self.labels, self.class_names = from_words([str(label) for label in labels], self.name)
        elif labelled:
            self.labels = require_labels(labels, self.name)
        self.fingerprint = file_hash(path)

    def read(self, index: int) -> Image.Image:
        """Decode sample ``index``."""
        return decode_image(self.content(index), f"{self._places[index][2]} in {self.name}")

    def content(self, index: int) -> bytes:
        """The encoded bytes of sample ``index``."""
        offset, size, _ = self._places[index]
        if size > MOST_ENCODED:
            raise too_large(self.name, "an image", size, MOST_ENCODED)
        with readable(self._path), open_file(self._path) as stream:
            return os.pread(stream.fileno(), size, offset)


class _Headers:
    """A stream as ``tarfile`` sees it, which reads headers only: one that announces more is refused, not read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.seek, self.tell = stream, stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        """At most :data:`_MOST_HEADER` bytes."""
        if not 0 <= size <= _MOST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._stream.read(size)


def _members(stream: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """The files of a tar in their order, each of them whole and behind the one before."""
    end, after = os.fstat(stream.fileno()).st_size, 0
    with tarfile.open(fileobj=cast(Any, _Headers(stream)), mode="r:") as tar:
        for member in tar:
            tar.members.clear()  # type: ignore[attr-defined]  # its own list would double ours
            if member.offset < after or member.size < 0 or member.offset_data + member.size > end:
                raise tarfile.ReadError(f"{member.name[:80]!r} is cut short, or lies in another file")
            after = member.offset_data
            if member.isreg():
                yield member


def _samples(path: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """Places and sizes of files by their sample and ending: of ``a/b.seg.png`` it is ``a/b``, and ``seg.png``."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with open_file(path) as stream:
            for member in _members(stream):
                folder, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                if stem and not name.startswith("."):
                    place = (member.offset_data, member.size)
                    found.setdefault(f"{folder}/{stem}" if folder else stem, {})[ending.lower()] = place
    except UserError:
        raise
    # A header is text that becomes numbers, and pax headers may follow each other without end.
    except (tarfile.TarError, ValueError, LookupError, ArithmeticError, EOFError, RecursionError) as error:
        raise UserError("a WebDataset is an uncompressed tar file", f"{path}: {error}", "write it again") from error
    return found


def _image_ending(members: dict[str, tuple[int, int]], asked: str | None) -> str | None:
    if asked is not None:
        return asked if asked in members else None
    return next((ending for ending in members if f".{ending}" in IMAGE_SUFFIXES), None)


def _label(stream: BinaryIO, members: dict[str, tuple[int, int]], asked: str | None, where: str) -> int | str:
    ending = asked if asked in members else next((one for one in LABEL_ENDINGS if one in members), None)
    if ending is None:
        action = f"add a file that ends in .{LABEL_ENDINGS[0]}, or write labels: false"
        raise UserError("every sample has its label", f"none of {where}", action)
    offset, size = members[ending]
    if size > _MOST_LABEL:
        raise too_large(where, "a label", size, _MOST_LABEL)
    text = os.pread(stream.fileno(), size, offset).decode("utf-8", "replace").strip()
    if ending.endswith("json"):
        try:
            values = json.loads(text)
            key = asked if asked in values else next(name for name in LABEL_COLUMNS if name in values)
            text = str(values[key])
        except (ValueError, TypeError, StopIteration, RecursionError) as error:
            keys = f"one of {', '.join(LABEL_COLUMNS[:4])}, or what data.columns.label says"
            raise UserError(f"the JSON of a sample holds {keys}", f"{text[:80]} of {where}", "add it") from error
    return number_of(text, where) if text.isdecimal() else text
