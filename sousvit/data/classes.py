"""The classes of data against those that a model learned: by name where both have names, else with a word.

Pure: lists of names in, numbers, notes or an error out. A name is the same in another case, with ``_``, ``-`` or a
space, and where ImageNet's way of listing synonyms (``tench, Tinca tinca``) has it, as long as that leaves no doubt.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from sousvit.data.numbering import natural_key
from sousvit.errors import UserError

#: Names that a library gives to classes nobody named: ``LABEL_3``, ``3``.
_PLACEHOLDER = re.compile(r"(?:label|class)?[ _-]?(\d{1,9})", re.IGNORECASE)
#: WordNet numbers, by which ImageNet's folders are called.
_WORDNET = re.compile(r"n\d{8}")
_CORRECT = "name the classes as the checkpoint does, or write data.classes, the data's names in the checkpoint's order"


@dataclass(frozen=True)
class Match:
    """What a model calls the classes of data.

    Attributes:
        names: of all the model's labels; None where the data's labels are the model's as they stand.
        labels: the model's label for each class of the data, where ``names`` are given.
        notes: what was changed or assumed.
    """

    names: tuple[str, ...] | None = None
    labels: tuple[int, ...] = ()
    notes: list[str] = field(default_factory=list)


def match(data: Sequence[str], learned: Sequence[str], outputs: int, ordered: bool = False) -> Match:
    """The model's labels for the classes of the data.

    Args:
        data: names in the order of the data's labels.
        learned: what the model's labels mean; nothing where the checkpoint does not say.
        outputs: how many labels the model has.
        ordered: whether the user gave the data's order, as ``data.classes``.

    Raises:
        UserError: the model learned other classes, or fewer.
    """
    found = _by_name(data, learned) if learned else None
    if found is None and (not learned or are_placeholders(learned)):
        return _unnamed(data, outputs, ordered)
    if found is None and ordered and len(data) <= outputs:
        shown = _differing(data, learned)
        return Match(notes=[f"data.classes was taken in the order of the checkpoint's classes, though {shown}"])
    if found is None:
        raise _others(data, learned)
    if found == tuple(range(len(data))):
        return Match()
    moved = next(label for label, there in enumerate(found) if label != there)
    example = f"{data[moved]}, {moved} in the data, is {found[moved]}"
    return Match(tuple(learned), found, [f"labels were changed to those of the checkpoint's classes ({example})"])


def taken_as_numbers(learned: Sequence[str]) -> Match:
    """The match of labels that are numbers alone: they stand, with a word on what the checkpoint means by them."""
    if not learned or are_placeholders(learned):
        return Match()
    means = ", ".join(f"{label} is {name}" for label, name in enumerate(learned[:3]))
    more = ", ..." if len(learned) > 3 else ""
    told = f"the data's labels are numbers and were taken as the checkpoint's ({means}{more})"
    return Match(notes=[f"{told}; if they mean other classes, write data.classes, their names in order"])


def _unnamed(data: Sequence[str], outputs: int, ordered: bool) -> Match:
    """The data's labels as they stand, with a word where they may be meant otherwise.

    Raises:
        UserError: the model has fewer labels.
    """
    if len(data) > outputs:
        raise UserError(
            "the model needs a class for every label",
            f"{outputs} classes for {len(data)} of the data ({', '.join(data[:3])}, ...)",
            "set model.args.num_classes, correct the data, or name those to keep in data.classes",
        )
    if ordered:
        return Match()
    notes = []
    if list(data) == sorted(data) and list(data) != sorted(data, key=natural_key):
        place = next(place for place, pair in enumerate(zip(data, sorted(data, key=natural_key), strict=True))
                     if pair[0] != pair[1])  # fmt: skip
        notes.append(
            f"the checkpoint does not name its classes: the data's were sorted as text, so {data[place]} is class "
            f"{place}, as torchvision numbers them; write data.classes: natural if it was trained in the order "
            "1, 2, 10 (as timm's reader has it), or the names in its order"
        )
    if len(data) < outputs:
        notes.append(
            f"the checkpoint does not name its {outputs} classes: the data's {len(data)} ({', '.join(data[:3])}, ...) "
            "were taken for its first ones; write data.classes, the names in its order, if they are others"
        )
    return Match(notes=notes)


def _by_name(data: Sequence[str], learned: Sequence[str]) -> tuple[int, ...] | None:
    """The label of each name; None unless every one has exactly one, and no two the same."""
    for spellings in (_exact, _folded, _synonyms):
        places: dict[str, set[int]] = {}
        for label, name in enumerate(learned):
            for spelling in spellings(name):
                places.setdefault(spelling, set()).add(label)
        found: list[int] = []
        for name in data:
            labels = set[int]().union(*(places.get(spelling, set()) for spelling in spellings(name)))
            whole = places.get(spellings(name)[0], set())  # the full name decides where a synonym has two meanings
            labels = whole if len(whole) == 1 else labels
            if len(labels) != 1:
                break
            found += labels
        if len(found) == len(data) and len(set(found)) == len(found):
            return tuple(found)
    return None


def _exact(name: str) -> list[str]:
    return [name]


def _folded(name: str) -> list[str]:
    return [re.sub(r"[\W_]+", "", name.casefold()) or name]


def _synonyms(name: str) -> list[str]:
    return [*_folded(name), *(spelling for part in name.split(",") for spelling in _folded(part))]


def are_placeholders(names: Sequence[str]) -> bool:
    """Whether names are just the numbers of their labels."""
    matches = [_PLACEHOLDER.fullmatch(name) for name in names]
    return all(found is not None and int(found[1]) == label for label, found in enumerate(matches))


def are_wordnet(names: Sequence[str]) -> bool:
    """Whether classes are called by WordNet's numbers, as ImageNet's folders are."""
    return bool(names) and all(_WORDNET.fullmatch(name) for name in names)


def _unknown(data: Sequence[str], learned: Sequence[str]) -> list[str]:
    known = Counter(spelling for name in learned for spelling in _synonyms(name))
    return [name for name in data if not any(spelling in known for spelling in _synonyms(name))]


def _differing(data: Sequence[str], learned: Sequence[str]) -> str:
    place = next(label for label, name in enumerate(data) if learned[label : label + 1] != (name,))
    return f"{data[place]} stands for {learned[place] if place < len(learned) else 'no name'}"


def _others(data: Sequence[str], learned: Sequence[str]) -> UserError:
    """What to say where names do not fit: which ones, and what can be done about it."""
    unknown = _unknown(data, learned)
    shown = ", ".join(unknown[:3]) + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else "")
    own = json.dumps(list(learned[:8]), ensure_ascii=False)[:-1] + (", ...]" if len(learned) > 8 else "]")
    if not unknown:
        return UserError("the names of classes tell them apart", f"names that mean several of {own}", _CORRECT)
    known = [name for name in data if name not in unknown]
    left = f", or leave them out: data.classes: {json.dumps(known, ensure_ascii=False)}" if 0 < len(known) <= 8 else ""
    received = f"{len(unknown)} of {len(data)} that it did not ({shown}); it learned {own}"
    return UserError("the data's classes are those that the base learned", received, f"{_CORRECT}{left}")
