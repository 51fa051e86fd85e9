"""COCO: one JSON file of images, categories and annotations, and folders with the images."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

from sousvit.data.detection import Annotation, DetectionSource, numbered
from sousvit.data.formats.format import Format, Part
from sousvit.data.source import MOST_PIXELS, image_dimensions
from sousvit.errors import UnknownNameError, UserError
from sousvit.files import read_bytes


class Coco(Format):
    """``format: coco``."""

    name = "coco"

    def open(self, part: Part) -> CocoSource:
        folders = None if part.spec.images is None else [Path(entry) for entry in part.spec.images]
        return CocoSource(part.path, folders, part.labelled, part.spec.classes)


class CocoSource(DetectionSource):
    """Images and boxes of one JSON file. Crowd regions (``iscrowd``) are no objects: they are dropped and counted.

    Args:
        path: the JSON file.
        folders: searched for its images, in this order; the file's own folder by default.
        labelled: False takes the images alone; the file may be without annotations and categories.
        classes: names in the order of their labels; by default all categories in the order of their ids.

    Raises:
        UserError: no COCO JSON, two images or categories with one id, an annotation of an unknown image, category or
            class, or a missing image.
    """

    def __init__(
        self,
        path: Path,
        folders: Sequence[Path] | None = None,
        labelled: bool = True,
        classes: Sequence[str] | None = None,
    ) -> None:
        content = _read(path, labelled)
        counts: Counter[str] = Counter()
        categories = _by_id(content["categories"], "name", path)
        names = [str(categories[key]["name"]) for key in sorted(categories)]
        labels = _labels(categories, classes)
        by_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for entry in content["annotations"]:
            category = categories.get(_field(entry, "category_id", path))
            if category is None:
                raise UserError("an annotation names a known category", _shown(entry, path), "add the category")
            if entry.get("iscrowd"):
                counts["crowd regions dropped"] += 1
            elif entry["category_id"] in labels:
                by_image[_field(entry, "image_id", path)].append(entry)
            else:
                raise UnknownNameError(f"the class of an object in {path}", category["name"], classes or ())
        images = _by_id(content["images"], "file_name", path)
        counts["images listed twice"] += len(content["images"]) - len(images)
        stray = next((entry for key, found in by_image.items() if key not in images for entry in found), None)
        if stray is not None:
            raise UserError("an annotation names a known image", _shown(stray, path), "add the image")
        places = list(folders) if folders else [path.parent]
        annotations = [_annotation(entry, by_image[key], labels, places, path) for key, entry in images.items()]
        super().__init__(str(path), annotations, list(names if classes is None else classes), counts, labelled)


def _read(path: Path, labelled: bool) -> dict[str, Any]:
    try:
        content = json.loads(read_bytes(path, "a file of COCO annotations"))
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError("COCO annotations are a JSON file", f"{path}: {error}", "correct the path") from error
    given = content if isinstance(content, dict) else {}
    if not labelled:
        given = {"categories": [], **given, "annotations": []}
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(given.get(key), list)]
    if missing:
        received = f"no list of {', '.join(missing)} in {path}"
        raise UserError("COCO annotations hold lists of images, annotations, categories", received, "correct the file")
    return given


def _by_id(entries: list[Any], told_by: str, path: Path) -> dict[Any, dict[str, Any]]:
    """Entries by id; one that is given twice counts once.

    Raises:
        UserError: two with one id differ in the field ``told_by``, such as the name, or ids are of several types.
    """
    found: dict[Any, dict[str, Any]] = {}
    for entry in entries:
        first = found.setdefault(_field(entry, "id", path), entry)
        if _field(first, told_by, path) != _field(entry, told_by, path):
            received = f"{first[told_by]} and {entry[told_by]} with the id {entry['id']} in {path}"
            raise UserError("every id of a COCO file stands for one thing", received, "give them ids of their own")
    by_type = {type(key): key for key in found}
    if len(by_type) > 1:
        received = f"{' and '.join(map(repr, by_type.values()))} in {path}"
        raise UserError("the ids of a COCO file are all numbers or all texts", received, "write them in one way")
    return found


def _labels(categories: dict[Any, dict[str, Any]], classes: Sequence[str] | None) -> dict[Any, int]:
    """The label of each category id; categories that ``classes`` does not name are left out."""
    if classes is None:
        return {key: label for label, key in enumerate(sorted(categories))}
    known = numbered(classes)
    return {key: known[name] for key, entry in categories.items() if (name := str(entry["name"])) in known}


def _field(entry: Any, key: str, path: Path) -> Any:
    if not isinstance(entry, dict) or not isinstance(entry.get(key), int | str):
        raise UserError(f"every entry of a COCO file has its {key}", _shown(entry, path), "correct the file")
    return entry[key]


def _shown(entry: Any, path: Path) -> str:
    text = json.dumps(entry)
    return f"{text if len(text) <= 120 else text[:117] + '...'} in {path}"


def _annotation(
    image: dict[str, Any], found: list[dict[str, Any]], labels: dict[Any, int], places: list[Path], path: Path
) -> Annotation:
    name = str(_field(image, "file_name", path))
    file = next((place / name for place in places if (place / name).is_file()), None)
    if file is None:
        where = ", ".join(map(str, places))
        raise UserError("every image of a COCO file must be there", f"no {name} in {where}", "name data.images")
    width, height = image.get("width"), image.get("height")
    size = (width, height) if _is_side(width) and _is_side(height) else image_dimensions(file)
    boxes = tuple(_box(entry, path) for entry in found)
    return Annotation(file, size, boxes, tuple(labels[entry["category_id"]] for entry in found))


def _is_side(length: Any) -> TypeGuard[int]:
    return isinstance(length, int) and 0 < length <= MOST_PIXELS


def _box(entry: dict[str, Any], path: Path) -> tuple[float, float, float, float]:
    """(x1, y1, x2, y2) from COCO's upper left corner, width and height."""
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(part, int | float) for part in box):
        raise UserError("an annotation has a bbox of four numbers", _shown(entry, path), "correct the file")
    try:
        left, top, width, height = (float(part) for part in box)
    except OverflowError as error:  # a whole number of JSON may have any number of digits
        raise UserError("an annotation has a bbox of four numbers", _shown(entry, path), "correct the file") from error
    return left, top, left + width, top + height
