"""Pascal VOC: lists of image names in ``ImageSets/Main``, one XML file an image, the images in ``JPEGImages``."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from glob import escape
from pathlib import Path

from sousvit.common.data.detection import Annotation, DetectionSource, image_dimensions
from sousvit.common.data.folder import IMAGE_SUFFIXES
from sousvit.common.errors import UnknownNameError, UserError

ANNOTATIONS, IMAGES = "Annotations", "JPEGImages"


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
        if not labelled:
            files = [_image_file(name, top) for name in _names(path, top / IMAGES, counts)]
            images = [Annotation(file, image_dimensions(file), (), ()) for file in files]
            super().__init__(str(path), images, list(classes or ()), counts, labelled=False)
            return
        parsed = [(name, _parse(top / ANNOTATIONS / f"{name}.xml")) for name in _names(path, top / ANNOTATIONS, counts)]
        if classes is None:
            classes = sorted({label for _, root in parsed for label in _labels(root)})
        elif len(set(classes)) != len(classes):
            raise UserError("classes are named once", ", ".join(classes), "correct data.classes")
        known = {name: label for label, name in enumerate(classes)}
        annotations = [_annotation(root, name, top, known) for name, root in parsed]
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
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("a VOC list is a text file of image names", f"{path}: {error}", "correct the path") from error
    names = [line.split()[0] for line in lines if line.strip()]
    counts["images listed twice"] += len(names) - len(set(names))
    return list(dict.fromkeys(names))


def _parse(file: Path) -> ET.Element:
    try:
        return ET.fromstring(file.read_bytes())
    except FileNotFoundError as error:
        raise UserError("every listed image has an annotation", f"no file {file}", "correct the list") from error
    except (OSError, ET.ParseError) as error:
        raise UserError("an annotation is an XML file", f"{file}: {error}", "repair or unlist it") from error


def _labels(root: ET.Element) -> list[str]:
    return [(entry.findtext("name") or "").strip() for entry in root.iter("object")]


def _annotation(root: ET.Element, name: str, top: Path, known: dict[str, int]) -> Annotation:
    file = _image_file(name, top, root.findtext("filename"))
    labels = _labels(root)
    for label in labels:
        if label not in known:
            raise UnknownNameError(f"the class of an object in {name}.xml", label, known)
    width, height = (_number(root, f"size/{side}", name, 0) for side in ("width", "height"))
    size = (int(width), int(height)) if width > 0 and height > 0 else image_dimensions(file)
    boxes = tuple(_box(entry, name) for entry in root.iter("object"))
    return Annotation(file, size, boxes, tuple(known[label] for label in labels))


def _box(entry: ET.Element, name: str) -> tuple[float, float, float, float]:
    """VOC counts pixels from 1 and means the last one too."""
    left, top, right, bottom = (_number(entry, f"bndbox/{key}", name) for key in ("xmin", "ymin", "xmax", "ymax"))
    return left - 1, top - 1, right, bottom


def _number(entry: ET.Element, path: str, name: str, default: float | None = None) -> float:
    text = entry.findtext(path)
    if text is None and default is not None:
        return default
    try:
        return float(text or "")
    except ValueError as error:
        raise UserError("boxes are given in numbers", f"{path} {text!r} in {name}.xml", "repair it") from error


def _image_file(name: str, top: Path, stated: str | None = None) -> Path:
    folder = top / IMAGES
    candidates = [folder / f"{name}.jpg", folder / Path(stated or "-").name]
    found = next((file for file in candidates if file.is_file()), None)
    if found is None:
        others = [file for file in folder.glob(f"{escape(name)}.*") if file.suffix.lower() in IMAGE_SUFFIXES]
        if not others:
            raise UserError("every listed name has its image", f"none for {name} in {folder}", "add or unlist it")
        found = others[0]
    return found
