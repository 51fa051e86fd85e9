"""Alternatives: the ends of the front and its knee beside the answer, and one sentence that says why it was chosen.

An *end* is the best in one objective of all that hold every limit: the fastest, the smallest, the most accurate, and
the best in whatever else is optimised. The *knee* is where giving up a little of one objective stops to buy much of the
others: the point of the front that lies farthest beyond the plane through the front's ideal ends, with every gain in
logs (:mod:`.gains`) and from 0 (the worst on the front) to 1 (the best); with two objectives that is the distance to
the line between the two ends (Das, Structural Optimization 18, 1999). A front that bulges nowhere has none.

All figures are those of the search: only the answer is measured again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sousvit.search.archive import Front
from sousvit.search.goals import Goals
from sousvit.search.preference.gains import Original
from sousvit.search.trial import Trial, quality_of

ANSWER, KNEE = "answer", "knee"
#: Fewer points have no knee between their ends.
LEAST_FRONT = 3
#: The plane through the ideal ends, in gains from 0 to 1, with room for rounding.
PLANE = 1 + 1e-9
#: Ends that the sentence compares the answer with.
MOST_COMPARED = 3
#: From here on a difference is told as a factor.
FACTOR = 2.0


@dataclass(frozen=True)
class Alternative:
    """A recipe that a user might have chosen, with all its names: ``("answer", "fastest")`` for instance."""

    names: tuple[str, ...]
    trial: Trial

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"names": list(self.names), "trial": self.trial.to_dict()}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Alternative:
        """The inverse of :meth:`to_dict`."""
        return cls(tuple(plain["names"]), Trial.from_dict(plain["trial"]))


def find_alternatives(chosen: Trial, held: Sequence[Trial], goals: Goals) -> tuple[Alternative, ...]:
    """The answer, then the ends and the knee; recipes that coincide are named once.

    Args:
        chosen: the answer.
        held: final trials that hold every limit.
    """
    named = {ANSWER: chosen}
    for name in _shown(chosen, goals):
        named[_Words.of(name).best] = _end(name, chosen, held, goals)
    found = _knee(held, goals)
    if found is not None:
        named[KNEE] = found
    by_trial: dict[str, list[str]] = {}
    for word, trial in named.items():
        by_trial.setdefault(trial.key, []).append(word)
    trials = {trial.key: trial for trial in named.values()}
    return tuple(Alternative(tuple(words), trials[key]) for key, words in by_trial.items())


def find_reason(chosen: Trial, held: Sequence[Trial], goals: Goals) -> str:
    """Why the answer was chosen, in one sentence.

    For instance ``it is the fastest of 7 that hold every limit; the smallest is 12% smaller and 30% slower``.

    Args:
        chosen: the answer.
        held: final trials that hold every limit.
    """
    count = len({trial.key for trial in [chosen, *held]})
    if count == 1:
        return "it is the only one that holds every limit" if goals.limits else "it is the only one judged in full"
    own, *others = find_alternatives(chosen, held, goals)
    of = f"of {count} {'that hold every limit' if goals.limits else 'judged in full'}"
    ends = [name for name in own.names[1:] if name != KNEE]
    is_knee = ", and is the knee of the front" if KNEE in own.names else ""
    is_asked = not {_Words.of(Original.of(name).name).best for name in goals.weights}.isdisjoint(ends)
    parts = [f"it is the {_listed(ends)} {of}" if is_asked else f"{of} it gains most in {_asked(goals)}{is_knee}"]
    better = sum(goals.score(trial.values) > goals.score(chosen.values) for trial in held)
    if better:
        parts.append(f"{better} would gain more, but held the limits less surely")
    rest = [(other, [name for name in other.names if name != KNEE]) for other in others]
    compared = [f"the {_listed(names)} is {_difference(other.trial, chosen, goals)}" for other, names in rest if names]
    return "; ".join([*parts, *compared[:MOST_COMPARED]])


def _asked(goals: Goals) -> str:
    """What is optimised, with the weights where they differ."""
    if len(set(goals.weights.values())) == 1:
        return _listed(goals.weights) + (" together" if len(goals.weights) > 1 else "")
    return _listed([f"{name} (weight {weight:g})" for name, weight in goals.weights.items()])


def _listed(words: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _shown(trial: Trial, goals: Goals) -> list[str]:
    """Objectives that have an end: latency, size, how good predictions are, and what else is optimised."""
    names = ["latency", "size", quality_of(trial.values), *(Original.of(name).name for name in goals.weights)]
    return [name for name in dict.fromkeys(names) if name in trial.values]


def _end(name: str, chosen: Trial, held: Sequence[Trial], goals: Goals) -> Trial:
    """The trial that is best in objective ``name``; of equals the answer, or else what the budget prefers."""
    sign = Original.of(name).sign
    measured = [chosen, *(trial for trial in held if not math.isnan(trial.get(name)))]
    return max(measured, key=lambda trial: (sign * trial.get(name), trial is chosen, goals.score(trial.values)))


def _knee(held: Iterable[Trial], goals: Goals) -> Trial | None:
    """The knee of the front of ``held``, where it has one."""
    front: Front[Trial] = Front()
    for trial in held:
        point = goals.point(trial.values)
        if not any(map(math.isnan, point)):
            front.add(point, trial)
    if len(front.items) < LEAST_FRONT:
        return None
    gains = np.array([list(goals.gains(trial.values).values()) for trial in front.items])
    low, width = gains.min(axis=0), np.ptp(gains, axis=0)
    beyond = ((gains - low) / np.where(width > 0, width, 1.0)).sum(axis=1)
    place = int(beyond.argmax())
    return front.items[place] if beyond[place] > PLANE else None


@dataclass(frozen=True)
class _Words:
    """What the best in an objective is called, and what is better or worse in it."""

    best: str
    better: str
    worse: str

    @classmethod
    def of(cls, name: str) -> _Words:
        original = Original.of(name)
        plain, _, target = original.name.partition("@")
        if plain == "agreement":
            words = ("most faithful", "more faithful", "less faithful")
        elif plain in ("accuracy", "map", "map50"):
            words = ("most accurate", "more accurate", "less accurate")
        else:
            least, most = (f"lowest {plain}", f"lower {plain}"), (f"highest {plain}", f"higher {plain}")
            best, worst = (most, least) if original.sign > 0 else (least, most)
            words = _COSTS.get(plain, (*best, worst[1]))
        return cls(*(f"{word} on {target}" if target else word for word in words))


_COSTS = {"latency": ("fastest", "faster", "slower"), "size": ("smallest", "smaller", "larger")}


def _difference(other: Trial, chosen: Trial, goals: Goals) -> str:
    """What one has of the other, the better first: ``12% smaller and 30% slower``."""
    better: list[str] = []
    worse: list[str] = []
    for name in _shown(chosen, goals):
        original, own, its = Original.of(name), chosen.get(name), other.get(name)
        if own == its or math.isnan(its):
            continue
        is_better = original.sign * (its - own) > 0
        words = _Words.of(name)
        amount = _amount(original, own, its)
        (better if is_better else worse).append(f"{amount} {words.better if is_better else words.worse}")
    return _listed([*better, *worse]) if better or worse else "equal in all of it"


def _amount(original: Original, own: float, its: float) -> str:
    """How far one figure is from the other: points of a share, a percentage, a factor from 2 on."""
    if original.is_quality:
        return f"{100 * abs(its - own):.2g} points"
    if min(own, its) <= 0:
        return f"{abs(its - own):.3g} {original.objective.unit}"
    factor = max(own, its) / min(own, its)
    share = abs(its / own - 1)
    return f"{factor:.2g}x" if factor >= FACTOR else f"{share:.0%}" if share >= 0.01 else f"{share:.1%}"
