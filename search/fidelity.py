"""How much recovery training a trial gets: successive halving over rungs, with several objectives and hard limits.

Trials begin at the lowest rung, a share of the recovery epochs (less than one epoch is a share of the images) or none
of them. From one rung to the next, the best ``1 / eta`` of its results may rise (asynchronous successive halving, Li et
al., 2020), in the order of :mod:`sousvit.search.ranking`. A low-rung result never counts as final. What is learned from
full trainings is which share of the loss at a rung is still there after all epochs; candidates whose accuracy would
then hold the limits are trained in full first, and where there is none, the one that would miss the limits least.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from statistics import median

import numpy as np
import numpy.typing as npt

from sousvit.search.budget import Limit
from sousvit.search.learning_curve import FULL, READ, LearningCurve, is_trained
from sousvit.search.ranking import constrained_order, miss_of, points_of
from sousvit.search.record import TrialRecord
from sousvit.search.selection import Preference
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.technique import get_technique

#: There is no rung beyond this share: it would cost nearly what all epochs cost.
NEARLY_FULL = 2 / 3
#: Parts of a trial's time that its own full training does not repeat as they were.
TRAINING_PARTS = frozenset({"recover", "teacher", "prepare"})


def make_rungs(lowest: float, eta: float) -> tuple[float, ...]:
    """``lowest``, then ``eta`` times as much each, up to all epochs; ``1 / eta`` of them comes after no training."""
    if lowest == READ:
        return READ, *make_rungs(FULL / eta, eta)
    rungs = [lowest]
    while rungs[-1] < FULL:
        following = rungs[-1] * eta
        rungs.append(FULL if following > NEARLY_FULL else following)
    return tuple(rungs)


@dataclass(frozen=True)
class Promotion:
    """A trial and the rung it rises to."""

    trial: TrialRecord
    fidelity: float


@dataclass(frozen=True)
class Halving:
    """Explore at the lowest rung, rise by rank, train the best in full; past ``explore_share`` of the budget only that.

    Args:
        rungs: fidelities in [0, 1], ascending, the last is 1; one rung means no promotions.
        eta: one result in so many may rise to the next rung.
        explore_share: share of trials and of time, in (0, 1].
        limits: the hard limits.
        preference: the budget's order among feasible recipes.
        senses: per optimised objective, whether more is better.
    """

    rungs: tuple[float, ...]
    eta: float
    explore_share: float
    limits: Sequence[Limit]
    preference: Preference
    senses: Mapping[str, bool]

    @property
    def low(self) -> float:
        """The lowest rung."""
        return self.rungs[0]

    def rung(self, recipe: Recipe) -> float:
        """Fidelity of a newly proposed recipe; without training every result is final.

        A cut of a prepared base is read off untrained on any ladder, a repaired model where the lowest rung says so.
        """
        if not recipe.trains or self.low >= FULL:
            return FULL
        if recipe.is_prepared or (self.low == READ and recipe.is_repaired):
            return READ
        return next(rung for rung in self.rungs if rung > READ)

    def rungs_from(self, fidelity: float) -> list[float]:
        """The rungs that a recipe at ``fidelity`` may still see, that one first.

        What was read off beside the ladder goes on to all epochs.
        """
        return [rung for rung in self.rungs if rung >= fidelity] if fidelity in self.rungs else [fidelity, FULL]

    def promotes(self, spent_share: float) -> bool:
        """Whether it is time for full trainings."""
        return self.low < FULL and spent_share >= self.explore_share

    def rise(self, trials: Sequence[TrialRecord], busy: AbstractSet[str] = frozenset()) -> Promotion | None:
        """What rises to a rung below the full one: among the first ``1 / eta`` of its rung, the highest rung first."""
        for low, high in reversed(list(zip(self.rungs, self.rungs[1:-1], strict=False))):
            best = self.survivors(trials, low)
            risen = {trial.recipe_key for trial in trials if trial.fidelity >= high}
            for trial in best:
                if trial.recipe_key not in risen and trial.model_key not in busy:
                    return Promotion(trial, high)
        return None

    def survivors(self, trials: Iterable[TrialRecord], rung: float) -> list[TrialRecord]:
        """The trials of ``rung`` that may rise, best first: its first ``ceil(n / eta)`` in constrained order."""
        there = [trial for trial in trials if trial.fidelity == rung and self._can_rise(trial)]
        order = constrained_order(points_of(there, self.senses), self._misses(there))
        return [there[place] for place in order[: math.ceil(len(there) / self.eta)]]

    def next(
        self, trials: Iterable[TrialRecord], seconds_left: float, busy: AbstractSet[str] = frozenset()
    ) -> TrialRecord | None:
        """The trial to train in full next, or None when none is worth it or fits the time left.

        Those that should be better answers than what there is come first among equals in rank.

        Args:
            busy: models that are being trained.
        """
        records = list(trials)
        done = {trial.recipe_key for trial in records if trial.fidelity >= FULL}
        highest: dict[str, TrialRecord] = {}
        for trial in records:
            if self._can_rise(trial) and trial.recipe_key not in done and trial.model_key not in busy:
                known = highest.get(trial.recipe_key)
                highest[trial.recipe_key] = trial if known is None or known.fidelity < trial.fidelity else known
        best = self._in_order(list(highest.values()), records)
        return next((trial for trial in best if self.seconds(trial, records) <= seconds_left), None)

    def _in_order(self, waiting: list[TrialRecord], records: Sequence[TrialRecord]) -> list[TrialRecord]:
        """``waiting`` as their full trainings should rank them, beside the final results."""
        curve = self._curve(records)
        expected = [curve.expected(trial) for trial in waiting]
        misses = self._misses(expected)
        final = [trial for trial in records if trial.is_final and miss_of(trial, self.limits) <= 0]
        order = constrained_order(points_of(expected, self.senses), misses, points_of(final, self.senses))
        answer = max((self.preference.score(trial) for trial in final), default=-math.inf)
        better = [place for place in order if misses[place] <= 0 and self.preference.score(expected[place]) > answer]
        better.sort(key=lambda place: self.preference.score(expected[place]), reverse=True)
        return [waiting[place] for place in dict.fromkeys([*better, *order])]

    def _can_rise(self, trial: TrialRecord) -> bool:
        return trial.status == "complete" and trial.fidelity < FULL and not self._broken_for_good(trial)

    def _misses(self, trials: Sequence[TrialRecord]) -> npt.NDArray[np.float64]:
        return np.array([miss_of(trial, self.limits) for trial in trials])

    def is_hopeful(self, trial: TrialRecord, trials: Iterable[TrialRecord]) -> bool:
        """Whether its full training should make it hold every limit."""
        return miss_of(self.expected(trial, trials), self.limits) <= 0

    def expected(self, trial: TrialRecord, trials: Iterable[TrialRecord]) -> TrialRecord:
        """``trial`` as it should come out of its full training, by what promotions of ``trials`` have shown."""
        return trial if trial.fidelity >= FULL else self._curve(trials).expected(trial)

    def _curve(self, trials: Iterable[TrialRecord]) -> LearningCurve:
        return LearningCurve(self.preference.base, trials)

    def seconds(self, trial: TrialRecord, records: Sequence[TrialRecord]) -> float:
        """Expected cost of training ``trial`` in full; siblings share recovered weights, so theirs count once."""
        same_model = [record for record in records if record.model_key == trial.model_key]
        rest = sum(seconds for part, seconds in trial.seconds.items() if part not in TRAINING_PARTS)
        if any(record.fidelity >= FULL for record in same_model):
            return rest
        if trial.fidelity == READ:
            return rest + _work(trial) * _pace(records)
        trained = [record for record in same_model if record.fidelity > READ]
        return rest + max(record.seconds.get("recover", 0.0) / record.fidelity for record in trained)

    def is_accurate(self, trial: TrialRecord, tolerance: float = 0.0) -> bool:
        """Whether it misses none of the limits that training decides by more than ``tolerance``, in their unit."""
        return not any(
            limit.violation(trial.values.get(limit.name)) * (abs(limit.bound) or 1.0) > tolerance
            for limit in self.limits
            if is_trained(limit.name)
        )

    def _broken_for_good(self, trial: TrialRecord) -> bool:
        """Whether it violates a limit that training does not change."""
        return any(
            limit.violation(trial.values.get(limit.name)) > 0 for limit in self.limits if not is_trained(limit.name)
        )


def _work(trial: TrialRecord) -> float:
    """What its full training computes, in epochs times MACs."""
    epochs = sum(step.get("epochs", 0) for step in trial.recipe["steps"] if get_technique(step["technique"]).recovers)
    return epochs * trial.values["macs"].value if "macs" in trial.values else 0.0


def _pace(records: Iterable[TrialRecord]) -> float:
    """Seconds per unit of work, by the trainings so far; 0 before the first."""
    trained = [record for record in records if record.fidelity > READ and record.seconds.get("recover")]
    paces = [record.seconds["recover"] / (record.fidelity * _work(record)) for record in trained if _work(record) > 0]
    return median(paces) if paces else 0.0
