"""WebDataset: tar files in which the files of one sample follow each other (``0001.jpg``, ``0001.cls``)."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sousvit.data.formats.folder import IMAGE_SUFFIXES
from sousvit.data.formats.format import Format, Part
from sousvit.data.formats.table import LABEL_COLUMNS
from sousvit.data.layout import readable
from sousvit.data.numbering import from_words
from sousvit.data.source import decode_image, require_labels
from sousvit.errors import UserError
from sousvit.files import file_hash
from sousvit.specs import Columns

#: Endings that hold a label.
LABEL_ENDINGS = ("cls", "label", "json", "txt")


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
        with readable(path), path.open("rb") as stream:
            for key, members in samples.items():
                image = _image_ending(members, asked.image)
                if image is None:
                    ending = asked.image or "jpg, png or the like"
                    raise UserError("every sample has its image", f"no {ending} of {key} in {path}", "add or remove it")
                self._places.append((members[image].offset_data, members[image].size, key))
                if labelled:
                    labels.append(_label(stream, members, asked.label, f"{key} in {path}"))
        if not self._places:
            raise UserError("a data set must hold images", f"none in {path}", "correct the path")
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
        with readable(self._path), self._path.open("rb") as stream:
            return os.pread(stream.fileno(), size, offset)


def _samples(path: Path) -> dict[str, dict[str, tarfile.TarInfo]]:
    """Files by their sample and ending: of ``a/b.seg.png`` the sample is ``a/b``, and the ending ``seg.png``."""
    found: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                if member.isfile() and stem and not name.startswith("."):
                    found.setdefault(f"{folder}/{stem}" if folder else stem, {})[ending.lower()] = member
    except tarfile.TarError as error:
        raise UserError("a WebDataset is an uncompressed tar file", f"{path}: {error}", "write it again") from error
    return found


def _image_ending(members: dict[str, tarfile.TarInfo], asked: str | None) -> str | None:
    if asked is not None:
        return asked if asked in members else None
    return next((ending for ending in members if f".{ending}" in IMAGE_SUFFIXES), None)


def _label(stream: Any, members: dict[str, tarfile.TarInfo], asked: str | None, where: str) -> int | str:
    ending = asked if asked in members else next((one for one in LABEL_ENDINGS if one in members), None)
    if ending is None:
        action = f"add a file that ends in .{LABEL_ENDINGS[0]}, or write labels: false"
        raise UserError("every sample has its label", f"none of {where}", action)
    member = members[ending]
    text = os.pread(stream.fileno(), member.size, member.offset_data).decode("utf-8", "replace").strip()
    if ending.endswith("json"):
        try:
            values = json.loads(text)
            key = asked if asked in values else next(name for name in LABEL_COLUMNS if name in values)
            text = str(values[key])
        except (ValueError, TypeError, StopIteration) as error:
            keys = f"one of {', '.join(LABEL_COLUMNS[:4])}, or what data.columns.label says"
            raise UserError(f"the JSON of a sample holds {keys}", f"{text[:80]} of {where}", "add it") from error
    return int(text) if text.isdecimal() else text
