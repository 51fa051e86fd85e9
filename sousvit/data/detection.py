"""Images with boxes: their sources, the cleaning of annotations, and the set in which every room sees them.

Broken annotations are handled the same way for every format: boxes are clipped to their image; what is then smaller
than a pixel, and a box given twice, is dropped and counted (:attr:`DetectionSource.notes`). An image without objects
stays, as a negative. What cannot be understood (no such class, no numbers, no image) is an error that names the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from sousvit.data.numbering import foreign_classes
from sousvit.data.source import MOST_ENCODED, ImageSet, Source, decode_file, require_count
from sousvit.errors import SharedInputError, UserError
from sousvit.files import content_hash, files_hash
from sousvit.models.preprocess import MODES, eight_bits

#: Boxes with a shorter side than this, in pixels of the original image, are dropped.
SMALLEST_SIDE = 1.0


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of one image: ``boxes`` float32 ``[n, 4]`` (x1, y1, x2, y2 in pixels), ``labels`` ``[n]``."""

    boxes: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, kept: torch.Tensor) -> Objects:
        """The objects at a mask or positions."""
        return Objects(self.boxes[kept], self.labels[kept])

    def as_target(self) -> dict[str, torch.Tensor]:
        """The objects in the form that torchvision's detectors take."""
        return {"boxes": self.boxes, "labels": self.labels}


@dataclass(frozen=True)
class Annotation:
    """One image as its format describes it.

    Attributes:
        file: the image.
        size: (width, height) in pixels.
        boxes: ``(x1, y1, x2, y2)`` each, as written in the file.
        labels: the class of each box.
    """

    file: Path
    size: tuple[int, int]
    boxes: tuple[tuple[float, float, float, float], ...]
    labels: tuple[int, ...]


class BoxSource(Source, Protocol):
    """A source whose images have boxes.

    Attributes:
        objects: of each image, by its row.
        sizes: (width, height) in which its boxes are measured.
    """

    objects: Sequence[Objects] | Mapping[int, Objects]
    sizes: Sequence[tuple[int, int]] | Mapping[int, tuple[int, int]]


class DetectionSource:
    """Annotated images with cleaned boxes, whatever format they were read from.

    Args:
        labelled: False where images have no boxes, and need none.

    Attributes:
        labels: ``[N]``, the row of each image, because an image with several objects has no class of its own.
        objects: per image, in pixels of the original.
        notes: one line for each kind of box that was dropped or changed.
    """

    def __init__(
        self,
        name: str,
        annotations: Sequence[Annotation],
        class_names: list[str],
        counts: Counter[str],
        labelled: bool = True,
    ) -> None:
        require_count(len(annotations), name)
        self.name, self.class_names = name, class_names
        self.files = [annotation.file for annotation in annotations]
        self.sizes = [annotation.size for annotation in annotations]
        self.objects = [clean(annotation, counts) for annotation in annotations]
        if labelled and not any(map(len, self.objects)):
            raise UserError("detection data must hold boxes", f"none in {name}", "correct the annotations")
        self.labels = np.arange(len(annotations), dtype=np.int64)
        self.notes = [f"{count} {what} in {name}" for what, count in sorted(counts.items()) if count]
        parts = [part for one in self.objects for part in (one.boxes.numpy().tobytes(), one.labels.numpy().tobytes())]
        by_place = {f"{place} {file.name}": file for place, file in enumerate(self.files)}
        files = files_hash(by_place, largest=MOST_ENCODED)
        self.fingerprint = content_hash(files, class_names, *parts)

    def read(self, index: int) -> Image.Image:
        """Decode image ``index``.

        Raises:
            SharedInputError: it is corrupt, or of another size than its annotation says.
        """
        file = self.files[index]
        image = decode_file(file)
        if image.size != self.sizes[index]:
            raise SharedInputError(
                "boxes are measured on their image",
                f"{file} has {image.size} pixels, its annotation says {self.sizes[index]}",
                "correct the annotation's size",
            )
        return image

    def content(self, index: int) -> Path:
        """File ``index``."""
        return self.files[index]


def numbered(classes: Sequence[str]) -> dict[str, int]:
    """The label of each class that the user names, in their order.

    Raises:
        UserError: a class is named twice.
    """
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        raise UserError("classes are named once", ", ".join(twice), "correct data.classes")
    return {name: label for label, name in enumerate(classes)}


def clean(annotation: Annotation, counts: Counter[str]) -> Objects:
    """The boxes clipped to their image, without empty and repeated ones; what was changed is counted in ``counts``.

    Raises:
        UserError: a coordinate is no finite number.
    """
    given = np.array(annotation.boxes, dtype=np.float64).reshape(-1, 4)
    if not np.isfinite(given).all():
        raise UserError("box coordinates are finite numbers", f"{annotation.file.name}: {given}", "correct them")
    width, height = annotation.size
    boxes = given.clip(0, [width, height, width, height])
    alive = ((boxes[:, 2:] - boxes[:, :2]) >= SMALLEST_SIDE).all(axis=1)
    counts["boxes dropped: outside of their image, or smaller than a pixel"] += int((~alive).sum())
    counts["boxes clipped to their image"] += int(((boxes != given).any(axis=1) & alive).sum())
    rows = np.column_stack([boxes, annotation.labels])[alive] if len(boxes) else np.zeros((0, 5))
    first = np.sort(np.unique(rows, axis=0, return_index=True)[1]) if len(rows) else np.zeros(0, dtype=np.int64)
    counts["boxes dropped: given twice"] += len(rows) - len(first)
    rows = rows[first]
    return Objects(torch.from_numpy(rows[:, :4]).float(), torch.from_numpy(rows[:, 4]).long())


class DetectionSet(ImageSet):
    """Images stretched to the model's size, with their boxes.

    Stretching keeps the whole image, where classification crops the centre; it does not change how boxes overlap.
    """

    source: BoxSource

    def targets(self, positions: torch.Tensor) -> list[Objects]:
        """The objects of the images at ``positions``, in pixels of ``size``."""
        found = []
        for row in self.indices[positions.numpy()]:
            objects, (width, height) = self.source.objects[row], self.source.sizes[row]
            scale = torch.tensor([self.size[1] / width, self.size[0] / height] * 2)
            found.append(Objects(objects.boxes * scale, objects.labels))
        return found

    @property
    def num_classes(self) -> int:
        """Classes of the source."""
        return len(self.class_names)

    def fit(self, image: Image.Image) -> Image.Image:
        return stretched(image, self.size, self.channels)


def stretched(image: Image.Image, size: tuple[int, int], channels: int) -> Image.Image:
    """A decoded image at a detector's ``size`` (height, width), whatever its shape.

    Raises:
        ValueError: pixels whose range nobody knows.
    """
    image = eight_bits(image).convert(MODES[channels])
    return image.resize((size[1], size[0]), Image.Resampling.BILINEAR, reducing_gap=3.0)


class _Reboxed:
    """A source whose images at ``rows`` hold other objects, in pixels of ``size``."""

    def __init__(self, source: Source, rows: np.ndarray, objects: Sequence[Objects], size: tuple[int, int]) -> None:
        self.name, self.class_names, self.labels = source.name, source.class_names, source.labels
        self.objects = dict(zip(rows.tolist(), objects, strict=True))
        self.sizes = dict.fromkeys(rows.tolist(), (size[1], size[0]))
        parts = [part for one in objects for part in (one.boxes.numpy().tobytes(), one.labels.numpy().tobytes())]
        self.fingerprint = content_hash(source.fingerprint, rows.tobytes(), size, *parts)
        self.read = source.read


def reboxed(images: ImageSet, objects: Sequence[Objects]) -> DetectionSet:
    """The same images with other objects: ``objects[i]`` in image i, in pixels of their size."""
    source = _Reboxed(images.source, images.indices, objects, images.size)
    return DetectionSet(source, images.indices, images.size, images.channels)


class _Renamed:
    """A source whose objects have other labels."""

    def __init__(self, source: BoxSource, labels: Sequence[int], names: Sequence[str]) -> None:
        self.name, self.class_names, self.labels = source.name, list(names), source.labels
        table = torch.tensor(labels, dtype=torch.int64)
        rows = range(len(source.labels))
        self.objects: Sequence[Objects] | Mapping[int, Objects]
        self.objects = [replace(source.objects[row], labels=table[source.objects[row].labels]) for row in rows]
        self.sizes, self.notes = source.sizes, list(getattr(source, "notes", ()))
        self.fingerprint = content_hash(source.fingerprint, list(labels), list(names))
        self.read, self._source = source.read, source

    def content(self, index: int) -> Path:
        """File ``index``."""
        return self._source.content(index)  # type: ignore[attr-defined]


def relabelled_boxes(source: BoxSource, labels: Sequence[int], names: Sequence[str]) -> BoxSource:
    """The same images with ``labels[i]`` in the place of label i, called ``names``."""
    return _Renamed(source, labels, names)


def boxes_numbered_alike(source: BoxSource, classes: Sequence[str]) -> BoxSource:
    """A part of the data with the numbers that the training part gives to the names.

    Raises:
        UserError: the part has objects of a class that the training part does not have.
    """
    if not classes or not source.class_names or list(classes) == source.class_names:
        return source
    held = {int(label) for row in range(len(source.labels)) for label in source.objects[row].labels}
    foreign = [source.class_names[label] for label in sorted(held) if source.class_names[label] not in classes]
    if foreign:
        raise foreign_classes(source, foreign)
    places = {name: label for label, name in enumerate(classes)}
    return relabelled_boxes(source, [places.get(name, 0) for name in source.class_names], classes)
