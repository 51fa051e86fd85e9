"""ImageFolder: one sub-folder a class, images inside it; without labels, all images of a folder."""

from __future__ import annotations

import errno
import os
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from sousvit.data.formats.format import Format, Part
from sousvit.data.layout import is_system_folder
from sousvit.data.source import MOST_ENCODED, decode_file, require_labels
from sousvit.errors import UserError
from sousvit.files import files_hash

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
#: Files that systems leave in every folder; those that begin with a dot come on top.
_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db", "picasa.ini"})
#: So many names stand in a note.
_SHOWN = 4


class Folder(Format):
    """``format: folder``."""

    name = "folder"

    def suits(self, path: Path) -> bool:
        return path.is_dir()

    def open(self, part: Part) -> FolderSource:
        return FolderSource(part.path, part.labelled)


class FolderSource:
    """Images in one folder for each class; classes are numbered in alphabetical order, as by torchvision's ImageFolder.

    Links to folders and files are followed. Folders of the system and hidden ones, classes without an image, links
    that lead nowhere or into a circle, and files of other kinds are left out, and counted in ``notes``.

    Args:
        path: the folder.
        labelled: False takes every image below the folder, in whatever folder it lies; its label is then 0.
    """

    def __init__(self, path: Path, labelled: bool = True) -> None:
        if not path.is_dir():
            raise UserError("image-folder data must be a folder", path, "correct the path")
        self.name = str(path)
        left_out = _LeftOut(path)
        below = _walk(path, left_out, labelled)
        if labelled:
            names = sorted(name for name, files in below.items() if files)
            left_out.empty = sorted(name for name, files in below.items() if not files and name)
            if not names or "" in names:
                names = _require_class_folders(path, names, len(below.get("", ())), left_out)
        else:
            names = [""]
        self.class_names: list[str] = names if labelled else []
        self.files = [file for name in names for file in below[name]]
        if not self.files:
            kinds = _some([f"{kind} {count}" for kind, count in left_out.kinds.most_common()])
            raise UserError("a data set must hold images", f"none in {path}{kinds}", "correct the path")
        counts = [len(below[name]) for name in names]
        self.labels = require_labels(np.repeat(np.arange(len(names)), counts), self.name)
        self.notes = left_out.notes()
        start = len(path.parts)
        by_place = {"/".join(file.parts[start:]): file for file in self.files}
        self.fingerprint = files_hash(by_place, largest=MOST_ENCODED)

    def read(self, index: int) -> Image.Image:
        """Decode file ``index``."""
        return decode_file(self.files[index])

    def content(self, index: int) -> Path:
        """File ``index``."""
        return self.files[index]


def _require_class_folders(path: Path, names: list[str], loose: int, left_out: _LeftOut) -> list[str]:
    """The classes where images also lie beside their folders; an error where there are only such."""
    classes = [name for name in names if name]
    if not classes and loose:
        raise UserError(
            "labelled folders hold a folder for each class",
            f"{loose} images and no folder of images in {path}",
            "sort them into folders (labels: false is for training images without labels)",
        )
    left_out.loose = loose
    return classes


class _LeftOut:
    """What a walk through a folder passed over."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders: Counter[str] = Counter()
        self.empty: list[str] = []
        self.links: list[str] = []
        self.circles: list[str] = []
        self.endless: list[str] = []
        self.kinds: Counter[str] = Counter()
        self.loose = 0

    def notes(self) -> list[str]:
        """One line for each kind of thing."""
        kinds = [f"{kind} {count}" if count > 1 else kind for kind, count in self.kinds.most_common()]
        found = [
            (sum(self.folders.values()), "folders of the system", sorted(self.folders)),
            (len(self.empty), "folders without an image, which are no classes", self.empty),
            (len(self.links), "links that lead nowhere", sorted(self.links)),
            (len(self.circles), "links that lead back to a folder around them", sorted(self.circles)),
            (len(self.endless), "pipes, sockets and devices", sorted(self.endless)),
            (sum(self.kinds.values()), "files that are no images of a known kind", kinds),
            (self.loose, "images beside the class folders", []),
        ]
        return [f"{count} {what}{_some(names)} left out in {self.root}" for count, what, names in found if count]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f" ({', '.join(names[:_SHOWN])}{more})" if names else ""


def _walk(root: Path, left_out: _LeftOut, by_class: bool) -> dict[str, list[Path]]:
    """The image files in path order, by the folder directly below ``root`` that they lie in (``""``: none)."""
    found: dict[str, list[tuple[tuple[str, ...], Path]]] = {"": []}
    # Not a function that calls itself: folders may be nested deeper than Python's stack.
    waiting: list[tuple[str, tuple[str, ...], frozenset[tuple[int, int]]]]
    waiting = [(str(root), (), frozenset({_identity(root)}))]
    while waiting:
        folder, place, around = waiting.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                where = (*place, entry.name)
                kind = _kind_of(entry)
                if kind == "folder":
                    if is_system_folder(entry.name):
                        left_out.folders[entry.name] += 1
                        continue
                    if by_class and not place:
                        found.setdefault(entry.name, [])
                    identity = _identity(Path(entry.path))
                    if identity in around:
                        left_out.circles.append("/".join(where))
                    else:
                        waiting.append((entry.path, where, around | {identity}))
                elif kind == "nothing":
                    left_out.links.append("/".join(where))
                elif kind == "other":
                    left_out.endless.append("/".join(where))
                elif _is_image(entry.name):
                    found[place[0] if by_class and place else ""].append((where, Path(entry.path)))
                else:
                    left_out.kinds[_kind(entry.name)] += 1
    return {name: [file for _, file in sorted(files)] for name, files in found.items()}


def _identity(folder: Path) -> tuple[int, int]:
    """What a folder is, by whatever links it was reached."""
    state = folder.stat()
    return state.st_dev, state.st_ino


def _kind_of(entry: os.DirEntry[str]) -> Literal["folder", "file", "nothing", "other"]:
    """What an entry is, or what it links to: nothing, where that is not there or links to itself."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        return "other" if Path(entry.path).exists() else "nothing"
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return "nothing"


def _is_image(name: str) -> bool:
    # A Mac leaves ``._cat.jpg`` beside cat.jpg on foreign disks: its attributes, and no image.
    return Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")


def _kind(name: str) -> str:
    if name.startswith(".") or name.lower() in _SYSTEM_FILES:
        return "hidden" if name.startswith("._") else name
    return Path(name).suffix.lower() or name
