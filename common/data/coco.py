"""COCO: one JSON file of images, categories and annotations, and folders with the images."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sousvit.common.data.detection import Annotation, DetectionSource, image_dimensions
from sousvit.common.errors import UserError


class CocoSource(DetectionSource):
    """One JSON file. Crowd regions (``iscrowd``) are no single objects: they are dropped and counted.

    Args:
        path: the JSON file.
        folders: where its images are looked for, in this order; the file's own folder by default.
        labelled: False takes the images alone; the file may be without annotations.

    Raises:
        UserError: no COCO JSON, an annotation of an unknown image or category, or a missing image.
    """

    def __init__(self, path: Path, folders: Sequence[Path] | None = None, labelled: bool = True) -> None:
        content = _read(path) if labelled else {**_read(path, ("images",)), "annotations": []}
        counts: Counter[str] = Counter()
        categories = sorted(content.get("categories", ()), key=lambda entry: _field(entry, "id", path))
        labels = {_field(entry, "id", path): label for label, entry in enumerate(categories)}
        by_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for entry in content["annotations"]:
            if _field(entry, "category_id", path) not in labels:
                raise UserError("an annotation names a known category", _shown(entry, path), "add the category")
            if entry.get("iscrowd"):
                counts["crowd regions dropped"] += 1
            else:
                by_image[_field(entry, "image_id", path)].append(entry)
        images = {_field(entry, "id", path): entry for entry in content["images"]}
        counts["images listed twice"] += len(content["images"]) - len(images)
        stray = next((entry for key, found in by_image.items() if key not in images for entry in found), None)
        if stray is not None:
            raise UserError("an annotation names a known image", _shown(stray, path), "add the image")
        places = list(folders) if folders else [path.parent]
        annotations = [_annotation(entry, by_image[key], labels, places, path) for key, entry in images.items()]
        names = [str(_field(entry, "name", path)) for entry in categories]
        super().__init__(str(path), annotations, names, counts, labelled)


def _read(path: Path, keys: tuple[str, ...] = ("images", "annotations", "categories")) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError("COCO annotations are a JSON file", f"{path}: {error}", "correct the path") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in keys):
        found = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise UserError(f"COCO annotations hold lists of {', '.join(keys)}", f"{found} in {path}", "correct the file")
    return content


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
    known = isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0
    size = (int(width), int(height)) if known else image_dimensions(file)  # type: ignore[arg-type]
    boxes = tuple(_box(entry, path) for entry in found)
    return Annotation(file, size, boxes, tuple(labels[entry["category_id"]] for entry in found))


def _box(entry: dict[str, Any], path: Path) -> tuple[float, float, float, float]:
    """COCO gives the left upper corner, width and height."""
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(part, int | float) for part in box):
        raise UserError("an annotation has a bbox of four numbers", _shown(entry, path), "correct the file")
    left, top, width, height = (float(part) for part in box)
    return left, top, left + width, top + height
