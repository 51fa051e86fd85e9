"""Pascal VOC: lists of image names in ``ImageSets/Main``, one XML file an image, the images in ``JPEGImages``.

The image of ``cat.xml`` is the one called ``cat``; where there is none, the one that its ``filename`` element states
(tools that rename annotations leave an old name there, so it comes second).
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.parsers import expat

from sousvit.data.detection import Annotation, DetectionSource, numbered
from sousvit.data.formats.folder import IMAGE_SUFFIXES
from sousvit.data.formats.format import Format, Part
from sousvit.data.layout import ANNOTATIONS, IMAGES
from sousvit.data.source import MOST_PIXELS, image_dimensions
from sousvit.errors import UnknownNameError, UserError
from sousvit.files import read_bytes, read_text

#: Bytes of an annotation: ten thousand objects take a third of it.
_MOST_XML = 8 << 20


class Voc(Format):
    """``format: voc``."""

    name = "voc"

    def open(self, part: Part) -> VocSource:
        return VocSource(part.path, part.spec.classes or part.classes or None, part.labelled)


class VocSource(DetectionSource):
    """One part of a VOC data set.

    Args:
        path: a list of image names, or the top folder itself for all annotated images.
        classes: names in the order of their labels; by default all that this part names, in alphabetical order.
        labelled: False takes the images alone and looks at no annotation.

    Raises:
        UserError: no such folder, list, annotation or image, or an annotation that breaks the format.
    """

    def __init__(self, path: Path, classes: Sequence[str] | None = None, labelled: bool = True) -> None:
        top = _top_folder(path, ANNOTATIONS if labelled else IMAGES)
        counts: Counter[str] = Counter()
        images = _Images(top / IMAGES)
        if not labelled:
            files = [images.find(name) for name in _names(path, top / IMAGES, counts)]
            bare = [Annotation(file, image_dimensions(file), (), ()) for file in files]
            super().__init__(str(path), bare, list(classes or ()), counts, labelled=False)
            return
        parsed = [(name, _parse(top / ANNOTATIONS / f"{name}.xml")) for name in _names(path, top / ANNOTATIONS, counts)]
        if classes is None:
            classes = sorted({label for _, root in parsed for label in _labels(root)})
        known = numbered(classes)
        annotations = [_annotation(root, name, images, known) for name, root in parsed]
        super().__init__(str(path), annotations, list(classes), counts)


def _top_folder(path: Path, holds: str) -> Path:
    found = next((folder for folder in (path, *path.parents) if (folder / holds).is_dir()), None)
    if found is None:
        raise UserError(
            f"VOC data lies below a folder with {ANNOTATIONS} and {IMAGES}",
            path,
            "name a list in its ImageSets/Main, or the folder",
        )
    return found


def _names(path: Path, folder: Path, counts: Counter[str]) -> list[str]:
    if path.is_dir():
        suffixes = {".xml", *IMAGE_SUFFIXES}
        return sorted({file.stem for file in folder.iterdir() if file.suffix.lower() in suffixes})
    lines = read_text(path, "a VOC list").splitlines()
    names = [line.split()[0] for line in lines if line.strip()]
    counts["images listed twice"] += len(names) - len(set(names))
    return list(dict.fromkeys(names))


def _parse(file: Path) -> ET.Element:
    if not file.exists():
        raise UserError("every listed image has an annotation", f"no file {file}", "correct the list")
    data = read_bytes(file, "an annotation", _MOST_XML)
    builder, parser = ET.TreeBuilder(), expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler, parser.EntityDeclHandler = builder.data, _refuse_entity
    try:
        parser.Parse(data, True)
        return builder.close()
    except (expat.ExpatError, ValueError) as error:  # also an encoding that nobody knows
        raise UserError("an annotation is an XML file", f"{file}: {error}", "repair or unlist it") from error


def _refuse_entity(name: str, *_: object) -> None:
    """Words that stand for others which stand for others: a few lines become gigabytes, and annotations need none."""
    raise ValueError(f"it declares the entity {name[:40]}")


def _labels(root: ET.Element) -> list[str]:
    return [(entry.findtext("name") or "").strip() for entry in root.iter("object")]


def _annotation(root: ET.Element, name: str, images: _Images, known: dict[str, int]) -> Annotation:
    file = images.find(name, root.findtext("filename"))
    labels = _labels(root)
    for label in labels:
        if label not in known:
            raise UnknownNameError(f"the class of an object in {name}.xml", label, known)
    width, height = (_number(root, f"size/{side}", name, 0) for side in ("width", "height"))
    if max(width, height) > MOST_PIXELS:
        raise UserError("an image has a size that can be read", f"{width:g} x {height:g} in {name}.xml", "repair it")
    size = (int(width), int(height)) if width > 0 and height > 0 else image_dimensions(file)
    boxes = tuple(_box(entry, name) for entry in root.iter("object"))
    return Annotation(file, size, boxes, tuple(known[label] for label in labels))


def _box(entry: ET.Element, name: str) -> tuple[float, float, float, float]:
    """(x1, y1, x2, y2) from 0; VOC counts pixels from 1 and includes the last one."""
    left, top, right, bottom = (_number(entry, f"bndbox/{key}", name) for key in ("xmin", "ymin", "xmax", "ymax"))
    return left - 1, top - 1, right, bottom


def _number(entry: ET.Element, path: str, name: str, default: float | None = None) -> float:
    text = entry.findtext(path)
    if text is None and default is not None:
        return default
    try:
        found = float(text or "")
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise UserError(
            "boxes are given in numbers, finite ones", f"{path} {(text or '')[:80]!r} in {name}.xml", "repair it"
        )
    return found


class _Images:
    """The image files of a folder by name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Of several files with one name the first in alphabetical order stays.
        files = sorted(folder.iterdir(), reverse=True) if folder.is_dir() else []
        self._by_name = {file.stem: file for file in files if file.suffix.lower() in IMAGE_SUFFIXES}

    def find(self, name: str, stated: str | None = None) -> Path:
        """The image file called ``name``, of several the ``.jpg`` or the ``stated`` one; else the ``stated`` file."""
        told = self._folder / Path(stated or "-").name
        own = [self._folder / f"{name}.jpg", *([told] if told.stem == name else [])]
        candidates = [*own, self._by_name.get(name, told), told]
        found = next((file for file in candidates if file.is_file()), None)
        if found is None:
            raise UserError("every listed name has its image", f"none for {name} in {self._folder}", "add or unlist it")
        return found
