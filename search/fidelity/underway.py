"""Trials on their way: running, held for a worker, or asked for ahead; and what a question wants to know of them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import TypeVar, overload

from sousvit.search.fidelity.learning_curve import FULL
from sousvit.search.trial import Trial

T = TypeVar("T")


class Underway(Sequence[Trial]):
    """Running trials in the order of their start, then the others; a question looks at none of them twice."""

    def __init__(self) -> None:
        self._held: list[Trial] = []
        self._ahead: deque[Trial] = deque()
        self._running: dict[str, Trial] = {}
        self._keys = Counter[str]()
        self._trained = Counter[str]()
        self._models = Counter[tuple[str, float]]()
        #: How many are full trainings of what was explored, or variants of one; and the former themselves, by key.
        self.num_late = 0
        self.promoted: dict[str, Trial] = {}

    @property
    def num_running(self) -> int:
        """How many run."""
        return len(self._running)

    @property
    def num_ahead(self) -> int:
        """How many were asked for before a worker was free."""
        return len(self._ahead)

    @property
    def num_held(self) -> int:
        """How many wait."""
        return len(self._held)

    def __len__(self) -> int:
        return len(self._running) + len(self._held) + len(self._ahead)

    def __iter__(self) -> Iterator[Trial]:
        return chain(self._running.values(), self._held, self._ahead)

    @overload
    def __getitem__(self, place: int) -> Trial: ...
    @overload
    def __getitem__(self, place: slice) -> list[Trial]: ...
    def __getitem__(self, place: int | slice) -> Trial | list[Trial]:
        return list(self)[place]

    def has(self, key: str) -> bool:
        """Whether the trial of this key is on its way."""
        return key in self._keys

    @property
    def busy(self) -> AbstractSet[str]:
        """The models that are trained, or wait for it."""
        return self._trained.keys()

    def hold(self, trial: Trial, first: bool = False) -> None:
        """Let a trial wait for a worker."""
        self._held.insert(0 if first else len(self._held), trial)
        self._note(trial)

    def stock(self, trial: Trial) -> None:
        """Keep a trial that was asked for before a worker is free; others may start first."""
        self._ahead.append(trial)
        self._note(trial)

    def take_stocked(self) -> Trial | None:
        """The first trial that was asked for ahead."""
        if not self._ahead:
            return None
        trial = self._ahead.popleft()
        self._forget(trial)
        return trial

    def drop(self, key: str) -> None:
        """Let the trial of this key wait no more."""
        for trial in [trial for trial in self._held if trial.key == key]:
            self._held.remove(trial)
            self._forget(trial)

    def take_held(self, may_start: Callable[[Trial], bool]) -> Trial | None:
        """The first waiting trial that may start, and whose weights no running one trains: waiting would save none."""
        for place, trial in enumerate(self._held):
            waits = trial.parsed.trains and (trial.model_key, trial.fidelity) in self._models
            if not waits and may_start(trial):
                self._forget(trial)
                return self._held.pop(place)
        return None

    def start(self, attempt: str, trial: Trial) -> None:
        """A trial begins to run."""
        self._running[attempt] = trial
        self._models[trial.model_key, trial.fidelity] += 1
        self._note(trial)

    def running(self, attempt: str) -> Trial | None:
        """The trial of an attempt; None of one that was lost."""
        return self._running.get(attempt)

    def end(self, attempt: str) -> Trial | None:
        """The trial whose attempt ended; None of one that was lost."""
        trial = self._running.pop(attempt, None)
        if trial is not None:
            _take_off(self._models, (trial.model_key, trial.fidelity))
            self._forget(trial)
        return trial

    def _note(self, trial: Trial) -> None:
        self._keys[trial.key] += 1
        self.num_late += is_late(trial)
        if trial.parsed.trains:
            self._trained[trial.model_key] += 1
        if _is_promoted(trial):
            self.promoted[trial.key] = trial

    def _forget(self, trial: Trial) -> None:
        _take_off(self._keys, trial.key)
        self.num_late -= is_late(trial)
        if trial.parsed.trains:
            _take_off(self._trained, trial.model_key)
        if _is_promoted(trial):
            self.promoted.pop(trial.key, None)


def is_late(trial: Trial) -> bool:
    """Whether it is a full training of what was explored, or a variant of one."""
    return trial.origin in ("promoted", "variant") and trial.fidelity >= FULL


def _is_promoted(trial: Trial) -> bool:
    return trial.origin == "promoted" and trial.fidelity >= FULL


def _take_off(counts: Counter[T], what: T) -> None:
    counts[what] -= 1
    if not counts[what]:
        del counts[what]
