"""How much recovery training a trial gets: successive halving over rungs, with several objectives and hard limits.

Models that were cut and repaired, or cut from a prepared base, may be evaluated untrained first, and trained in full
where that promises most. Other trials begin at the lowest rung that pays, a share of the recovery epochs (less than
one epoch is a share of the images). From one rung to the next, the best ``1 / eta`` of its results may rise
(asynchronous successive halving, Li et al., 2020), in the order of :mod:`sousvit.search.ranking`. A low-rung result
never counts as final. What is learned from full trainings is which share of the loss at a rung is still there after
all epochs; candidates whose accuracy would then hold the limits are trained in full first, and where there is none,
the one that would miss the limits least.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import moocore
import numpy as np

from sousvit.search.fidelity.learning_curve import FULL, UNTRAINED, is_trained
from sousvit.search.fidelity.standings import Standings
from sousvit.search.fidelity.training_cost import paying_rungs, seconds_in_full
from sousvit.search.goals import Goals
from sousvit.search.ranking import constrained_order, points_of
from sousvit.search.trial import Trial
from sousvit.spaces.recipe import Recipe


def make_rungs(lowest: float, eta: float) -> tuple[float, ...]:
    """``lowest``, then ``eta`` times as much each, up to all epochs; where that is no training, ``1 / eta`` of them."""
    rungs = [lowest if lowest > UNTRAINED else FULL / eta]
    while rungs[-1] * eta < FULL:
        rungs.append(rungs[-1] * eta)
    return (*rungs, FULL) if rungs[-1] < FULL else (FULL,)


@dataclass(frozen=True)
class Promotion:
    """A trial and the rung it rises to."""

    trial: Trial
    fidelity: float


@dataclass(frozen=True)
class Halving:
    """Explore at the lowest rung, rise by rank, train the best in full; past ``explore_share`` of the budget only that.

    Args:
        rungs: fidelities of trials that train, ascending, the last is 1.
        untrained_first: whether repaired models are judged untrained first.
        eta: one result in so many may rise to the next rung.
        explore_share: share of trials and of time, in (0, 1].
        goals: what results are held against.
    """

    rungs: tuple[float, ...]
    untrained_first: bool
    eta: float
    explore_share: float
    goals: Goals
    _kept_standings: list[Standings] = field(default_factory=list, init=False, compare=False)

    @property
    def explores(self) -> bool:
        """Whether there are results that are not final."""
        return self.untrained_first or self.rungs[0] < FULL

    def rung(self, recipe: Recipe, trials: Iterable[Trial]) -> float:
        """Fidelity of a newly proposed recipe, after ``trials``; without training every result is final."""
        if not recipe.trains or not self.explores:
            return FULL
        # A cut of a prepared base is worth an untrained evaluation on any ladder.
        if recipe.is_prepared or (self.untrained_first and recipe.is_repaired):
            return UNTRAINED
        return self.ladder(trials)[0]

    def ladder(self, trials: Iterable[Trial]) -> tuple[float, ...]:
        """The rungs that pay, by what ``trials`` cost."""
        return paying_rungs(self.rungs, self.eta, trials)

    def rungs_from(self, fidelity: float, trials: Iterable[Trial]) -> list[float]:
        """The rungs that a recipe at ``fidelity`` may still see, its own first; after an untrained one the full one."""
        above = self.ladder(trials) if fidelity > UNTRAINED else (FULL,)
        return [fidelity, *(rung for rung in above if rung > fidelity)]

    def promotes(self, spent_share: float) -> bool:
        """Whether it is time for full trainings."""
        return self.explores and spent_share >= self.explore_share

    def rise(self, trials: Sequence[Trial], busy: AbstractSet[str] = frozenset()) -> Promotion | None:
        """What rises to a rung below the full one: among the first ``1 / eta`` of its rung, the highest rung first."""
        rungs = self.ladder(trials)
        for low, high in reversed(list(pairwise(rungs[:-1]))):
            best = self.survivors(trials, low)
            risen = {trial.recipe_key for trial in trials if trial.fidelity >= high}
            for trial in best:
                if trial.recipe_key not in risen and trial.model_key not in busy:
                    return Promotion(trial, high)
        return None

    def survivors(self, trials: Iterable[Trial], rung: float) -> list[Trial]:
        """The trials of ``rung`` that may rise, best first: its first ``ceil(n / eta)`` in constrained order."""
        there = [trial for trial in trials if trial.fidelity == rung and self._can_rise(trial)]
        misses = np.array([self.goals.miss(trial.values) for trial in there])
        order = constrained_order(points_of(there, self.goals), misses)
        return [there[place] for place in order[: math.ceil(len(there) / self.eta)]]

    def next(
        self,
        trials: Iterable[Trial],
        seconds_left: float,
        busy: AbstractSet[str] = frozenset(),
        optimistic: bool = False,
    ) -> Trial | None:
        """The trial to train in full next, or None when none is worth it or fits the time left.

        Those that should be better answers than what there is come first among equals in rank.

        Args:
            busy: models that are being trained.
            optimistic: see :meth:`expected`.
        """
        standings = self.standings(trials)
        waiting = [trial for trial in standings.waiting.values() if trial.model_key not in busy]
        best = self._in_order(self._unsettled(waiting, standings), standings, optimistic)
        return next((trial for trial in best if self._seconds(trial, standings) <= seconds_left), None)

    def seconds_in_full(self, trial: Trial, trials: Iterable[Trial]) -> float:
        """What its full training should take, after ``trials``."""
        return self._seconds(trial, self.standings(trials))

    def _seconds(self, trial: Trial, standings: Standings) -> float:
        return seconds_in_full(trial, standings.by_model.get(trial.model_key, ()), standings.trained)

    def _in_order(self, waiting: list[Trial], standings: Standings, optimistic: bool) -> list[Trial]:
        """``waiting`` as their full trainings should rank them, beside the final results."""
        asked = standings.outlooks(waiting, optimistic)
        points = np.array([one.point for one in asked]).reshape(len(asked), len(self.goals.directions))
        order = constrained_order(points, np.array([one.miss for one in asked]), standings.final)
        better = [place for place in order if asked[place].miss <= 0 and asked[place].score > standings.best]
        better.sort(key=lambda place: asked[place].score, reverse=True)
        return [waiting[place] for place in dict.fromkeys([*better, *order])]

    def _unsettled(self, waiting: list[Trial], standings: Standings) -> list[Trial]:
        """``waiting`` without those that a final result equals in all that is optimised, if no training changes it."""
        if any(map(is_trained, self.goals.directions)):
            return waiting
        reached, asked = standings.final, points_of(waiting, self.goals)
        front = reached[moocore.is_nondominated(reached)] if len(reached) else reached
        return [trial for trial, point in zip(waiting, asked, strict=True) if not (front <= point).all(axis=1).any()]

    def _can_rise(self, trial: Trial) -> bool:
        return trial.status == "complete" and trial.fidelity < FULL and not self._broken_for_good(trial)

    def is_hopeful(self, trial: Trial, trials: Iterable[Trial], optimistic: bool = False) -> bool:
        """Whether its full training should make it hold every limit."""
        return self.goals.miss(self.expected(trial, trials, optimistic).values) <= 0

    def expected(self, trial: Trial, trials: Iterable[Trial], optimistic: bool = False) -> Trial:
        """``trial`` as it should come out of its full training, by what promotions of ``trials`` have shown.

        ``optimistic``: if its training brings a standard deviation more than the usual one.
        """
        return trial if trial.fidelity >= FULL else self.standings(trials).curve.expected(trial, optimistic)

    def standings(self, trials: Iterable[Trial]) -> Standings:
        """What is known of ``trials``; of two lists it is kept, of all trials and of single techniques.

        A list that is given again may only have grown.
        """
        records = trials if isinstance(trials, list) else list(trials)
        for place, standings in enumerate(self._kept_standings):
            if standings.read(records):
                self._kept_standings.insert(0, self._kept_standings.pop(place))
                return standings
        standings = Standings(self.goals, self._can_rise)
        standings.read(records)
        self._kept_standings[:] = [standings, *self._kept_standings[:1]]
        return standings

    def is_accurate(self, trial: Trial, tolerance: float = 0.0) -> bool:
        """Whether it misses none of the limits that training decides by more than ``tolerance``, in their unit."""
        return not any(
            limit.violation(trial.values.get(limit.name)) * (abs(limit.bound) or 1.0) > tolerance
            for limit in self._trained.limits
        )

    def may_be_accurate(self, trial: Trial) -> bool:
        """Whether the better ends of its intervals hold the limits that training decides."""
        return self._trained.may_hold(trial.values)

    def _broken_for_good(self, trial: Trial) -> bool:
        """Whether it violates a limit that training does not change."""
        return not self._fixed.holds(trial.values)

    @cached_property
    def _trained(self) -> Goals:
        """The goals with the limits that training decides."""
        return self.goals.only(is_trained)

    @cached_property
    def _fixed(self) -> Goals:
        """The goals with the limits that training does not change."""
        return self.goals.only(lambda name: not is_trained(name))
