"""What number stands for which class: words, class subsets and orders, on any source."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sousvit.data.source import MOST_CLASSES, Source, require_labels
from sousvit.errors import UnknownNameError, UserError
from sousvit.files import content_hash
from sousvit.specs import NATURAL

#: Letters of a class's name, at most: longer ones are texts, or a column of images.
MOST_LETTERS = 1000


class Renumbered:
    """Some rows of a source, with other labels.

    Args:
        rows: which ones, in order.
        labels: theirs.
        class_names: by the new labels.
        notes: what a reader must know of the change.
    """

    def __init__(
        self,
        source: Source,
        rows: np.ndarray,
        labels: np.ndarray,
        class_names: Sequence[str],
        notes: Sequence[str] = (),
    ) -> None:
        self.name, self.class_names, self._source, self._rows = source.name, list(class_names), source, rows
        self.labels = labels.astype(np.int64)
        self.notes = [*notes_of(source), *notes]
        self.fingerprint = content_hash(source.fingerprint, rows.tobytes(), self.labels.tobytes())

    def read(self, index: int) -> Image.Image:
        """Image ``index`` of the chosen ones."""
        return self._source.read(int(self._rows[index]))

    def content(self, index: int) -> bytes | Path:
        """What identifies image ``index``."""
        return content_of(self._source, int(self._rows[index]))


def notes_of(source: Source) -> list[str]:
    """What reading a source dropped, changed or assumed, one line each."""
    return list(getattr(source, "notes", ()))


def content_of(source: Source, index: int) -> bytes | Path:
    """The file of an image, or its bytes, encoded or not: equal ones are the same image."""
    content: Callable[[int], bytes | Path] | None = getattr(source, "content", None)
    if content is not None:
        return content(index)
    image = source.read(index)
    return f"{image.mode} {image.size}".encode() + image.tobytes()


def natural_key(text: str) -> list[Any]:
    """Sorts ``2`` before ``10``, as a person would, and as timm's reader of folders does."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text.lower())]


def number_of(text: str, where: str) -> int:
    """The label that decimal digits write.

    Raises:
        UserError: it is too large to be the number of a class.
    """
    if len(text.lstrip("0")) > len(str(MOST_CLASSES)):  # Python refuses thousands of digits with an error of its own
        shown = text if len(text) <= 40 else f"{text[:40]}... ({len(text)} digits)"
        rule = f"labels must be whole numbers from 0, below {MOST_CLASSES:,}"
        raise UserError(rule, f"{shown} in {where}", "re-encode the labels")
    return int(text)


def from_words(words: Sequence[Any], where: str) -> tuple[np.ndarray, list[str]]:
    """Labels of words, numbered in the order of the sorted words, and those.

    Raises:
        UserError: a word is missing, or so long that it is none.
    """
    missing = next((row for row, word in enumerate(words) if word is None or word == ""), None)
    if missing is not None:
        raise UserError("every image has a label", f"none in row {missing} of {where}", "add it or remove the row")
    words = [str(word) for word in words]
    longest = max(words, key=len, default="")
    if len(longest) > MOST_LETTERS:
        received = f"{longest[:40]}... of {len(longest):,} in {where}"
        raise UserError(f"the name of a class has at most {MOST_LETTERS} letters", received, "name another column")
    names = sorted(set(words))
    places = {name: label for label, name in enumerate(names)}
    return require_labels(np.array([places[word] for word in words], dtype=np.int64), where), names


def chosen(source: Source, classes: Sequence[str] | str) -> Source:
    """The source with its classes in the order that the user wrote, without those that they left out.

    Args:
        classes: names, or ``natural``. Where the source has no names, the names of its numbers; or some of the numbers.

    Raises:
        UserError: a class is named twice, or none of them is there.
    """
    names = source.class_names or _names_of_numbers(source, classes)
    wanted = sorted(names, key=natural_key) if classes == NATURAL else list(classes)
    twice = sorted({name for name in wanted if wanted.count(name) > 1})
    if twice:
        raise UserError("classes are named once", ", ".join(twice), "correct data.classes")
    left_out = [name for name in names if name not in wanted]
    absent = [name for name in wanted if name not in names]
    for name in absent:
        if get_close_matches(name, left_out, n=1, cutoff=0.6):
            raise UnknownNameError("a name in data.classes", name, left_out)
    if len(absent) == len(wanted):
        shown = ", ".join(names[:3])
        raise UserError("data.classes names classes of the data", f"{wanted[0]}, where {source.name} has {shown}")
    notes = [f"no image is of {_shown(absent)}, which data.classes names, in {source.name}"] if absent else []
    if left_out:
        number = int(np.isin(source.labels, [names.index(name) for name in left_out]).sum())
        notes.append(f"{number} images of classes that data.classes leaves out, {_shown(left_out)}, in {source.name}")
    return renumbered(source, names, wanted, notes)


def _names_of_numbers(source: Source, classes: Sequence[str] | str) -> list[str]:
    """What labels without names are called: by the user, or by their numbers where those are what the user chose."""
    count = int(source.labels.max()) + 1
    if classes == NATURAL:
        return [str(number) for number in range(count)]
    if all(name.isdecimal() for name in classes):
        wanted = (number_of(name, "data.classes") + 1 for name in classes)
        return [str(number) for number in range(max(count, *wanted))]
    if len(classes) < count:
        raise UserError(
            "data.classes names every label where labels are numbers",
            f"{len(classes)} names, and labels up to {count - 1} in {source.name}",
            "name all of them, or write the numbers of those to keep",
        )
    return list(classes)


def renumbered(source: Source, names: Sequence[str], wanted: Sequence[str], notes: Sequence[str] = ()) -> Source:
    """The source with the labels of the names in ``wanted``; images of other classes are left out.

    Args:
        names: what the labels of ``source`` mean now.
    """
    if list(names) == list(wanted) and source.class_names and not notes:
        return source
    places = {name: label for label, name in enumerate(wanted)}
    table = np.array([places.get(name, -1) for name in names], dtype=np.int64)
    labels = table[source.labels]
    rows = np.flatnonzero(labels >= 0)
    require_labels(labels[rows], source.name)
    return Renumbered(source, rows, labels[rows], wanted, notes)


def numbered_alike(source: Source, classes: Sequence[str]) -> Source:
    """A part of the data with the numbers that the training part gives to the names.

    Raises:
        UserError: the part has a class that the training part does not have.
    """
    if not classes or list(classes) == source.class_names:
        return source
    if not source.class_names:
        return _named_by_number(source, classes)
    held = {source.class_names[label] for label in np.unique(source.labels)}
    foreign = [name for name in source.class_names if name in held and name not in classes]
    if foreign:
        raise foreign_classes(source, foreign)
    missing = [name for name in classes if name not in held]
    notes = [f"no image is of {_shown(missing)} in {source.name}"] if missing else []
    return renumbered(source, source.class_names, classes, notes)


def foreign_classes(source: Source, names: Sequence[str]) -> UserError:
    """A part has classes that the training part does not have."""
    return UserError(
        "every part of the data has the same classes",
        f"{', '.join(names[:3])} in {source.name}, which the training part does not have",
        "move or rename them, or name data.classes",
    )


def _named_by_number(source: Source, classes: Sequence[str]) -> Source:
    """A part whose labels are numbers, with the names that the training part has for them.

    Raises:
        UserError: the training part has fewer names.
    """
    if source.labels.max() >= len(classes):
        raise UserError(
            "every part of the data has the same classes",
            f"label {source.labels.max()} in {source.name}, and {len(classes)} names in the training part",
            "write names into both",
        )
    note = f"{source.name} does not name its classes: its numbers were taken for those of the training part's names"
    return Renumbered(source, np.arange(len(source.labels)), source.labels, classes, [note])


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
