"""Train, validation and test, kept apart: a :class:`~sousvit.specs.DataSpec` opens into :class:`Splits`.

The search works on ``train`` and ``validation``. ``open_test`` reads the test split and counts how
often it did, so that a run can show that it was read once; ``look_at_test`` only checks its files, labels and classes,
before a search spends hours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from sousvit.cache import TensorCache
from sousvit.data.classes import Match
from sousvit.data.detection import BoxSource, DetectionSet, boxes_numbered_alike, relabelled_boxes
from sousvit.data.formats.format import FORMATS, PartName
from sousvit.data.formats.joined import open_part
from sousvit.data.layout import expand
from sousvit.data.numbering import chosen, notes_of, numbered_alike, renumbered
from sousvit.data.overlap import content_ids, copies, keep_copies_together, require_apart, require_last_apart
from sousvit.data.source import ImageSet, Source
from sousvit.errors import UserError
from sousvit.files import content_hash
from sousvit.models.preprocess import DEFAULT_PREPROCESS, Preprocess
from sousvit.specs import DETECTION_FORMATS, LEAST_PART, DataSpec, LastRows, paths_of, require_test_path

#: Finds what the model calls the classes of a part: its names, and whether the user gave their order.
Matcher = Callable[[Sequence[str], bool], Match]


class Splits:
    """The three parts of a data set at one model's input size.

    Args:
        spec: resolved data specification.
        size: (height, width) of the model's input.
        channels: input channels of the model.
        made: synthesised training and validation images, where the user has none.
        boxes: whether the images are for a detector, which unlabelled ones do not show.
        matcher: gives labels the numbers that the model learned for their names.
        cache: keeps what was read to compare images.
        preprocess: how images get the model's size.

    Raises:
        UserError: a part is missing, empty, corrupt, too small to be split, shares images with another, or has classes
            that the model did not learn; or there are no images at all.
    """

    def __init__(
        self,
        spec: DataSpec,
        size: tuple[int, int],
        channels: int,
        made: tuple[ImageSet, ImageSet] | None = None,
        boxes: bool = False,
        matcher: Matcher | None = None,
        cache: TensorCache | None = None,
        preprocess: Preprocess = DEFAULT_PREPROCESS,
    ) -> None:
        self.spec, self._size, self._channels, self._boxes = spec, size, channels, boxes
        self._matcher, self._cache, self._preprocess = matcher, cache, preprocess
        self.test_reads = 0
        #: Images that no trial is judged on, once :meth:`hold_back` has set them aside.
        self.held_back: ImageSet | None = None
        self._sources: tuple[Source, ...] = ()
        self._notes: list[str] = []
        self._test_notes: list[str] = []
        if made is not None:
            self.train, self.validation = made
            return
        if spec.kind == "none":
            raise UserError("this needs training images", "data without any", "name them under data")
        opened = _open(spec, "train")
        source, found = _matched(spec, opened, matcher)
        [ids] = content_ids([source], cache)
        self._sources, self._notes = (source,), [*found, *copies(source, ids)]
        if paths_of(spec.validation):
            _require_own_validation(spec)
            other = _alike(spec, _open(spec, "validation", opened.class_names), opened, matcher)
            self._sources = (source, other)
            own_ids, other_ids = content_ids(self._sources, cache)
            self._notes += require_apart(other, source, other_ids, own_ids)
            train = np.arange(len(source.labels))
            self.validation = self._set(other, np.arange(len(other.labels)))
        else:
            train, held_out, notes = _split(spec, source, ids)
            self._notes += notes
            self.validation = self._set(source, held_out)
        if spec.limit_train is not None:
            train = _drawn(train, spec.split_seed)[: spec.limit_train]
            train = np.sort(train)
        self.train = self._set(source, train)
        self._opened = opened

    @property
    def num_classes(self) -> int:
        """Classes that the search sees."""
        return max(self.train.num_classes, self.validation.num_classes)

    @property
    def notes(self) -> list[str]:
        """What reading the annotations dropped or changed, one line each; of the test split once it was looked at."""
        found = [note for source in self._sources for note in notes_of(source)]
        return list(dict.fromkeys([*found, *self._notes, *self._test_notes]))

    @property
    def fingerprint(self) -> str:
        """Content identity of the training and validation images, and of how the latter are parted."""
        held_back = [] if self.held_back is None else [self.held_back.fingerprint]
        return content_hash(self.train.fingerprint, self.validation.fingerprint, *held_back)

    def hold_back(self, share: float) -> None:
        """Set a share of the validation images aside, drawn at random, to confirm an answer on.

        Nothing is set aside where either part would have fewer than :data:`LEAST_PART` images.
        """
        images, count = self.validation, round(share * len(self.validation))
        if min(count, len(images) - count) < LEAST_PART:
            return
        drawn = np.sort(_drawn(np.arange(len(images)), self.spec.split_seed)[:count])
        self.held_back = images.subset(drawn)
        self.validation = images.subset(np.setdiff1d(np.arange(len(images)), drawn))

    def calibration(self) -> ImageSet:
        """Training images for calibration-only repair and quantization."""
        return self.train.spread(self.spec.calibration, self.spec.split_seed)

    def look_at_test(self) -> ImageSet:
        """The test split, for a check of its labels and classes; no image is decoded."""
        beside = (self._opened, *self._sources) if self._sources else ()
        images, self._test_notes = _look_at_test(
            self.spec, self._size, self._channels, beside, self._matcher, self._cache, self._preprocess
        )
        return images

    def open_test(self) -> ImageSet:
        """Read the test split (counted in ``test_reads``)."""
        images = self.look_at_test()
        self.test_reads += 1
        return images

    def _set(self, source: Source, indices: np.ndarray) -> ImageSet:
        if self._boxes or self.spec.format in DETECTION_FORMATS:
            return DetectionSet(cast(BoxSource, source), indices, self._size, self._channels)
        return ImageSet(source, indices, self._size, self._channels, self._preprocess)


def look_at_test(
    spec: DataSpec,
    size: tuple[int, int],
    channels: int,
    matcher: Matcher | None = None,
    cache: TensorCache | None = None,
    preprocess: Preprocess = DEFAULT_PREPROCESS,
) -> ImageSet:
    """The test split where there are no other images, for a check of its labels and classes; none is decoded.

    Raises:
        UserError: it is missing or broken, or has other classes than the model.
    """
    return _look_at_test(spec, size, channels, (), matcher, cache, preprocess)[0]


def _look_at_test(
    spec: DataSpec,
    size: tuple[int, int],
    channels: int,
    beside: Sequence[Source],
    matcher: Matcher | None,
    cache: TensorCache | None,
    preprocess: Preprocess,
) -> tuple[ImageSet, list[str]]:
    """The test split, and notes on it.

    Args:
        beside: the training part as it was opened and with the model's labels, and the validation part where it is
            data of its own.
    """
    _require_own_test(spec)
    source = _open(spec, "test", beside[0].class_names if beside else ())
    notes: list[str] = []
    if beside and beside[0].class_names:
        source = _alike(spec, source, beside[0], matcher)
    else:
        source, notes = _matched(spec, source, matcher)
    own, *others = content_ids([source, *beside[1:]], cache)
    for other, ids in zip(beside[1:], others, strict=True):
        notes += require_apart(source, other, own, ids)
    kind = DetectionSet if spec.format in DETECTION_FORMATS else ImageSet
    images = kind(source, np.arange(len(source.labels)), size, channels, preprocess)
    return images, [*notes_of(source), *notes]


def _matched(spec: DataSpec, source: Source, matcher: Matcher | None) -> tuple[Source, list[str]]:
    """A part with the labels that the model learned for its classes, and what was done for it."""
    match = _match(spec, source, matcher)
    return _with_labels(spec, source, match), [*match.notes, *_counted_from_one(spec, source)]


def _counted_from_one(spec: DataSpec, source: Source) -> list[str]:
    """A word where numbers may have been counted from 1, as some tools do."""
    if source.class_names or spec.format in DETECTION_FORMATS or source.labels.min() != 1:
        return []
    return [f"no image of {source.name} has the label 0, with which the model's classes begin"]


def _match(spec: DataSpec, source: Source, matcher: Matcher | None) -> Match:
    if matcher is None or not (source.class_names or (spec.labels and spec.format not in DETECTION_FORMATS)):
        return Match()
    return matcher(source.class_names, spec.classes is not None)


def _with_labels(spec: DataSpec, source: Source, match: Match) -> Source:
    if match.names is None:
        return source
    if spec.format in DETECTION_FORMATS:
        return relabelled_boxes(cast(BoxSource, source), match.labels, match.names)
    return renumbered(source, [match.names[label] for label in match.labels], match.names)


def _alike(spec: DataSpec, part: Source, opened: Source, matcher: Matcher | None) -> Source:
    """A further part with the labels of the training part, as that was opened and then matched."""
    if spec.format in DETECTION_FORMATS:
        part = boxes_numbered_alike(cast(BoxSource, part), opened.class_names)
    else:
        part = numbered_alike(part, opened.class_names)
    return _with_labels(spec, part, _match(spec, opened, matcher) if part.class_names else Match())


def require_test(spec: DataSpec) -> None:
    """Check that there is a test split apart from the other data; no image is decoded (but by torchvision's sets).

    Raises:
        UserError: none, or it is the training or validation data.
    """
    if spec.format is not None and spec.format != "none" and not FORMATS.get(spec.format).has_paths:
        _open(spec, "test")
        return
    require_test_path(spec)
    for path in paths_of(spec.test):
        expand(path)
    _require_own_test(spec)


def _require_own_test(spec: DataSpec) -> None:
    shared = set(paths_of(spec.test)) & {*paths_of(spec.train), *paths_of(spec.validation)}
    if shared:
        raise UserError("the test split must be data of its own", min(shared), "name another path")


def _require_own_validation(spec: DataSpec) -> None:
    shared = set(paths_of(spec.validation)) & {*paths_of(spec.train), *paths_of(spec.test)}
    if shared:
        raise UserError("validation must be data of its own", min(shared), "name another path or a fraction")


def _open(spec: DataSpec, part: PartName, classes: Sequence[str] = ()) -> Source:
    """A part with the classes that the user chose.

    Args:
        classes: of the training part, in the order of its labels.
    """
    labelled = spec.labels or part == "test"
    paths = paths_of(getattr(spec, part))
    if not paths and (spec.format is None or FORMATS.get(spec.format).has_paths):
        without = " (train: none synthesises images)" if part == "train" else ""
        raise UserError(f"data needs a {part} path", "none", f"add data.{part}{without}")
    source = open_part(spec, part, paths, labelled, classes)
    if spec.classes is None or spec.format in DETECTION_FORMATS or not labelled:
        return source
    return chosen(source, spec.classes)


def _drawn(rows: np.ndarray, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(rows)


def _split(spec: DataSpec, source: Source, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Training rows, held-out rows and notes; copies of one image are on one side.

    Args:
        ids: the content of each row.
    """
    rows = np.arange(len(source.labels))
    validation = spec.validation
    if isinstance(validation, LastRows):
        count = validation.last
    else:
        assert isinstance(validation, int | float)
        count = validation if isinstance(validation, int) else max(1, round(validation * len(rows)))
    if count >= len(rows):
        raise UserError("validation must leave images to train on", f"{count} of {len(rows)}", "hold out fewer")
    if isinstance(validation, LastRows):
        return rows[:-count], rows[-count:], require_last_apart(source, ids, count)
    order = _drawn(rows, spec.split_seed)
    held_out, notes = keep_copies_together(count, order, ids)
    held_out = np.sort(held_out)
    return np.setdiff1d(rows, held_out), held_out, notes
