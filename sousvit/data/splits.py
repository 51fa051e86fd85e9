"""Train, validation and test, kept apart: a :class:`~sousvit.specs.DataSpec` opens into :class:`Splits`.

The search works on ``train`` and ``validation``. ``open_test`` reads the test split and counts how
often it did, so that a run can show that it was read once; ``look_at_test`` only checks its files, labels and classes,
before a search spends hours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, cast

import numpy as np

from sousvit.data.coco import CocoSource
from sousvit.data.detection import BoxSource, DetectionSet, DetectionSource
from sousvit.data.folder import FolderSource
from sousvit.data.idx import IdxSource
from sousvit.data.parquet import ParquetSource
from sousvit.data.source import ImageSet, Source
from sousvit.data.torchvision_sets import TorchvisionSource
from sousvit.data.voc import VocSource
from sousvit.errors import UserError
from sousvit.files import content_hash
from sousvit.models.preprocess import DEFAULT_PREPROCESS, Preprocess
from sousvit.specs import DataSpec, LastRows


class Splits:
    """The three parts of a data set at one model's input size.

    Args:
        spec: resolved data specification.
        size: (height, width) of the model's input.
        channels: input channels of the model.
        made: synthesised training and validation images, where the user has none.
        boxes: whether the images are for a detector, which unlabelled ones do not show.
        preprocess: how images get the model's size.

    Raises:
        UserError: a part is missing, empty, corrupt, or too small to be split; or there are no images at all.
    """

    def __init__(
        self,
        spec: DataSpec,
        size: tuple[int, int],
        channels: int,
        made: tuple[ImageSet, ImageSet] | None = None,
        boxes: bool = False,
        preprocess: Preprocess = DEFAULT_PREPROCESS,
    ) -> None:
        self.spec, self._size, self._channels, self._boxes, self._preprocess = spec, size, channels, boxes, preprocess
        self.test_reads = 0
        self._sources: tuple[Source, ...] = ()
        self._test_notes: list[str] = []
        if made is not None:
            self.train, self.validation = made
            return
        if spec.kind == "none":
            raise UserError("this needs training images", "data without any", "name them under data")
        source = _open(spec, "train")
        self._sources = (source,)
        train, held_out = _split(spec, source)
        if held_out is None:
            assert isinstance(spec.validation, str)
            if spec.validation in (spec.train, spec.test):
                raise UserError(
                    "validation must be data of its own", spec.validation, "name another path or a fraction"
                )
            other = _open_path(spec, spec.validation, spec.labels, source.class_names)
            _require_apart(other, source)
            self._sources = (source, other)
            self.validation = self._set(other, np.arange(len(other.labels)))
        else:
            self.validation = self._set(source, held_out)
        if spec.limit_train is not None:
            train = _draw(train, min(spec.limit_train, len(train)), spec.split_seed)
        self.train = self._set(source, train)

    @property
    def num_classes(self) -> int:
        """Classes that the search sees."""
        return max(self.train.num_classes, self.validation.num_classes)

    @property
    def notes(self) -> list[str]:
        """What reading the annotations dropped or changed, one line each; of the test split once it was looked at."""
        found = [note for source in self._sources for note in _notes(source)]
        return list(dict.fromkeys(found + self._test_notes))

    @property
    def fingerprint(self) -> str:
        """Content identity of the training and validation images."""
        return content_hash(self.train.fingerprint, self.validation.fingerprint)

    def calibration(self) -> ImageSet:
        """Training images for calibration-only repair and quantization."""
        return self.train.spread(self.spec.calibration, self.spec.split_seed)

    def look_at_test(self) -> ImageSet:
        images = look_at_test(self.spec, self._size, self._channels, self._sources, self._preprocess)
        self._test_notes = _notes(images.source)
        return images

    def open_test(self) -> ImageSet:
        """Read the test split (counted in ``test_reads``)."""
        images = self.look_at_test()
        self.test_reads += 1
        return images

    def _set(self, source: Source, indices: np.ndarray) -> ImageSet:
        if self._boxes or isinstance(source, DetectionSource):
            return DetectionSet(cast(BoxSource, source), indices, self._size, self._channels)
        return ImageSet(source, indices, self._size, self._channels, self._preprocess)


def look_at_test(
    spec: DataSpec,
    size: tuple[int, int],
    channels: int,
    beside: Sequence[Source] = (),
    preprocess: Preprocess = DEFAULT_PREPROCESS,
) -> ImageSet:
    """The test split, for a check of its labels and classes; no image is decoded.

    Args:
        beside: the training part, and the validation part where it is data of its own.
        preprocess: how images get that size.

    Raises:
        UserError: it is missing or broken, is one of the other parts, shares images with them, or has other classes.
    """
    _require_own_test(spec)
    source = _open(spec, "test", beside[0].class_names if beside else ())
    for other in beside:
        _require_apart(source, other)
    kind = DetectionSet if isinstance(source, DetectionSource) else ImageSet
    return kind(source, np.arange(len(source.labels)), size, channels, preprocess)


def _notes(source: Source) -> list[str]:
    return list(getattr(source, "notes", ()))


def _require_apart(part: Source, other: Source) -> None:
    """Check that two parts number their classes alike (folders number them by name) and share no image file."""
    shared = sorted(set(getattr(part, "files", ())) & set(getattr(other, "files", ())))
    if shared:
        raise UserError(
            "the parts of the data share no image",
            f"{len(shared)} images, {shared[0].name} among them, in {part.name} and {other.name}",
            "take them out of one part",
        )
    if part.class_names and other.class_names and part.class_names != other.class_names:
        differing = sorted(set(part.class_names) ^ set(other.class_names)) or part.class_names
        raise UserError(
            "every part of the data has the same classes in the same order",
            f"{', '.join(differing[:3])} in one of {part.name} and {other.name}",
            "name data.classes" if isinstance(part, DetectionSource) else "give both the same class folders",
        )


def require_test(spec: DataSpec) -> None:
    """Check that there is a test split apart from the other data; no image is decoded (but by torchvision's sets).

    Raises:
        UserError: none, or it is the training or validation data.
    """
    if spec.format != "torchvision":
        if spec.test is None:
            raise UserError("data needs a test path", "none", "add data.test: the answer is judged on it")
        if not Path(spec.test).exists():
            raise UserError("data must exist", spec.test, "correct data.test")
        _require_own_test(spec)
    elif spec.name and spec.root:
        TorchvisionSource(spec.name, Path(spec.root), train=False)


def _require_own_test(spec: DataSpec) -> None:
    if spec.test is not None and spec.test in (spec.train, spec.validation):
        raise UserError("the test split must be data of its own", spec.test, "name another path")


def _open(spec: DataSpec, part: Literal["train", "test"], classes: Sequence[str] = ()) -> Source:
    if spec.format == "torchvision":
        if not spec.name or not spec.root:
            raise UserError("torchvision data needs name and root", f"name={spec.name}, root={spec.root}", "add them")
        return TorchvisionSource(spec.name, Path(spec.root), part == "train")
    path = spec.train if part == "train" else spec.test
    if path is None:
        without = " (train: none synthesises images)" if part == "train" else ""
        raise UserError(f"data needs a {part} path", "none", f"add data.{part}{without}")
    return _open_path(spec, path, spec.labels or part == "test", classes)


def _open_path(spec: DataSpec, path: str, labelled: bool, classes: Sequence[str] = ()) -> Source:
    """The source at ``path``; with the ``classes`` of the training part, VOC numbers labels alike."""
    if not Path(path).exists():
        raise UserError("data must exist", path, "correct the path under data")
    if spec.format == "voc":
        return VocSource(Path(path), spec.classes or classes or None, labelled)
    if spec.format == "coco":
        folders = None if spec.images is None else [Path(entry) for entry in spec.images]
        return CocoSource(Path(path), folders, labelled, spec.classes)
    kinds: dict[str, Callable[[Path, bool], Source]] = {
        "idx": IdxSource,
        "parquet": ParquetSource,
        "folder": FolderSource,
    }
    return kinds[spec.format](Path(path), labelled)


def _draw(indices: np.ndarray, count: int, seed: int) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).permutation(indices)[:count])


def _split(spec: DataSpec, source: Source) -> tuple[np.ndarray, np.ndarray | None]:
    """Training rows and held-out rows (None when validation has a path of its own)."""
    rows = np.arange(len(source.labels))
    validation = spec.validation
    if isinstance(validation, str):
        return rows, None
    if isinstance(validation, LastRows):
        count = validation.last
    else:
        count = validation if isinstance(validation, int) else max(1, round(validation * len(rows)))
    if count >= len(rows):
        raise UserError("validation must leave images to train on", f"{count} of {len(rows)}", "hold out fewer")
    if isinstance(validation, LastRows):
        return rows[:-count], rows[-count:]
    held_out = _draw(rows, count, spec.split_seed)
    return np.setdiff1d(rows, held_out), held_out
