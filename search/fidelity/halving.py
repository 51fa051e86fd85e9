"""Successive halving: how much recovery training a trial gets, with several objectives and hard limits.

Models that were cut and repaired, or cut from a prepared base, may be evaluated untrained first, and trained in full
where that promises most. Other trials begin at the lowest rung that pays, a share of the recovery epochs (less than
one epoch is a share of the images). From one rung to the next, the best ``1 / eta`` of its results may rise
(asynchronous successive halving, Li et al., 2020), in the order of :mod:`sousvit.search.ranking`. A low-rung result
never counts as final. Full trainings show which share of the loss at a rung is still there after all epochs.
Candidates whose accuracy should then hold the limits are trained in full first; where there is none, the one that
should miss the limits least.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from itertools import pairwise

import moocore
import numpy as np

from sousvit.search.fidelity.learning_curve import FULL, UNTRAINED, is_trained
from sousvit.search.fidelity.standings import Standings
from sousvit.search.fidelity.training_cost import paying_rungs, seconds_in_full
from sousvit.search.goals import Goals
from sousvit.search.ranking import constrained_order, points_of
from sousvit.search.trial import Trial
from sousvit.spaces.context import Start
from sousvit.spaces.recipe import Recipe


def make_rungs(lowest: float, eta: float) -> tuple[float, ...]:
    """``lowest``, then ``eta`` times as much each, up to all epochs; where that is no training, ``1 / eta`` of them."""
    rungs = [lowest if lowest > UNTRAINED else FULL / eta]
    while rungs[-1] * eta < FULL:
        rungs.append(rungs[-1] * eta)
    return (*rungs, FULL) if rungs[-1] < FULL else (FULL,)


class Halving:
    """Explore at the lowest rung, rise by rank, train the best in full; past ``explore_share`` of the budget only that.

    Args:
        rungs: fidelities of trials that train, ascending, the last is 1.
        untrained_first: whether repaired models are judged untrained first.
        eta: one result in so many may rise to the next rung.
        explore_share: share of trials and of time, in (0, 1].
        goals: what results are held against.
        trials: those that have finished, in their order; the list grows.
    """

    def __init__(
        self,
        rungs: tuple[float, ...],
        untrained_first: bool,
        eta: float,
        explore_share: float,
        goals: Goals,
        trials: Sequence[Trial],
    ) -> None:
        self.goals, self.explore_share = goals, explore_share
        self._rungs, self._untrained_first, self._eta, self._trials = rungs, untrained_first, eta, trials
        self._standings = Standings(trials, goals)
        self._standings_of_singles = Standings(self._standings.singles, goals)
        #: The limits that training decides.
        self._trained = goals.only(is_trained)

    @property
    def explores(self) -> bool:
        """Whether there are results that are not final."""
        return self._untrained_first or self._rungs[0] < FULL

    def rung(self, recipe: Recipe) -> float:
        """Fidelity of a newly proposed recipe; without training every result is final."""
        if not recipe.trains or not self.explores:
            return FULL
        # A cut of a prepared base is worth an untrained evaluation on any ladder.
        if recipe.is_prepared or (self._untrained_first and recipe.is_repaired):
            return UNTRAINED
        return self.ladder()[0]

    def ladder(self) -> tuple[float, ...]:
        """The rungs that pay, by what the trials so far cost."""
        return paying_rungs(self._rungs, self._eta, self.standings().trained)

    def rungs_from(self, fidelity: float) -> list[float]:
        """The rungs that a recipe at ``fidelity`` may still see, its own first; after an untrained one the full one."""
        above = self.ladder() if fidelity > UNTRAINED else (FULL,)
        return [fidelity, *(rung for rung in above if rung > fidelity)]

    def promotes(self, spent_share: float) -> bool:
        """Whether it is time for full trainings."""
        return self.explores and spent_share >= self.explore_share

    def rise(self, busy: AbstractSet[str] = frozenset()) -> Trial | None:
        """The next trial to rise to a rung below the full one: the first ``1 / eta`` of each may, highest rung first.

        Args:
            busy: models that are being trained.
        """
        for low, high in reversed(list(pairwise(self.ladder()[:-1]))):
            best = self.survivors(low)
            risen = {trial.recipe_key for trial in self._trials if trial.fidelity >= high}
            for trial in best:
                if trial.recipe_key not in risen and trial.model_key not in busy:
                    return trial.promoted(high)
        return None

    def survivors(self, rung: float) -> list[Trial]:
        """The trials of ``rung`` that may rise, best first: its first ``ceil(n / eta)`` in constrained order.

        Models that start with other weights than the base's are behind at first, so each kind has its own order.
        """
        there = [trial for trial in self._trials if trial.fidelity == rung and self._standings.can_rise(trial)]
        kinds = [[trial for trial in there if trial.parsed.start is start] for start in Start]
        return [trial for kind in kinds for trial in self._first_of(kind)]

    def _first_of(self, there: list[Trial]) -> list[Trial]:
        misses = np.array([self.goals.miss(trial.values) for trial in there])
        order = constrained_order(points_of(there, self.goals), misses)
        return [there[place] for place in order[: math.ceil(len(there) / self._eta)]]

    def next(self, seconds_left: float, busy: AbstractSet[str] = frozenset(), optimistic: bool = False) -> Trial | None:
        """The trial to train in full next, or None when none is worth it or fits the time left.

        Those that should be better answers than what there is come first among equals in rank.

        Args:
            busy: models that are being trained.
            optimistic: see :meth:`expected`.
        """
        return self._next(self.standings(), seconds_left, busy, optimistic)

    def next_single(self, seconds_left: float, busy: AbstractSet[str] = frozenset()) -> Trial | None:
        """The single technique to train in full next, by what singles have shown."""
        self.standings()
        self._standings_of_singles.read_on()
        return self._next(self._standings_of_singles, seconds_left, busy)

    def _next(
        self, standings: Standings, seconds_left: float, busy: AbstractSet[str], optimistic: bool = False
    ) -> Trial | None:
        waiting = [trial for trial in standings.waiting.values() if trial.model_key not in busy]
        best = self._in_order(self._unsettled(waiting, standings), standings, optimistic)
        return next((trial for trial in best if _seconds(trial, standings) <= seconds_left), None)

    def seconds_in_full(self, trial: Trial) -> float:
        """What its full training should take."""
        return _seconds(trial, self.standings())

    def standings(self) -> Standings:
        """What the trials so far hold for promotions."""
        self._standings.read_on()
        return self._standings

    def _in_order(self, waiting: list[Trial], standings: Standings, optimistic: bool) -> list[Trial]:
        """``waiting`` as their full trainings should rank them, beside the final results."""
        asked = [standings.expected(trial, optimistic) for trial in waiting]
        points = np.array([one.point for one in asked]).reshape(len(asked), len(self.goals.directions))
        order = constrained_order(points, np.array([one.miss for one in asked]), standings.final)
        better = [place for place in order if asked[place].miss <= 0 and asked[place].score > standings.best]
        better.sort(key=lambda place: asked[place].score, reverse=True)
        return [waiting[place] for place in dict.fromkeys([*better, *order])]

    def _unsettled(self, waiting: list[Trial], standings: Standings) -> list[Trial]:
        """``waiting`` without what a final result matches or beats in all objectives, where training changes none."""
        if any(map(is_trained, self.goals.directions)):
            return waiting
        reached, asked = standings.final, points_of(waiting, self.goals)
        front = reached[moocore.is_nondominated(reached)] if len(reached) else reached
        return [trial for trial, point in zip(waiting, asked, strict=True) if not (front <= point).all(axis=1).any()]

    def is_hopeful(self, trial: Trial, optimistic: bool = False) -> bool:
        """Whether its full training should make it hold every limit."""
        return self.goals.miss(self.expected(trial, optimistic).values) <= 0

    def expected(self, trial: Trial, optimistic: bool = False) -> Trial:
        """``trial`` as it should come out of its full training, by what promotions have shown.

        ``optimistic``: if its training brings a standard deviation more than the usual one.
        """
        return trial if trial.fidelity >= FULL else self.standings().curve.expected(trial, optimistic)

    def is_accurate(self, trial: Trial, tolerance: float = 0.0) -> bool:
        """Whether it misses none of the limits that training decides by more than ``tolerance``, in their unit."""
        return not any(
            limit.violation(trial.values.get(limit.name)) * (abs(limit.bound) or 1.0) > tolerance
            for limit in self._trained.limits
        )

    def may_be_accurate(self, trial: Trial) -> bool:
        """Whether the better ends of its intervals hold the limits that training decides."""
        return self._trained.may_hold(trial.values)


def _seconds(trial: Trial, standings: Standings) -> float:
    base_macs = standings.base_macs
    return seconds_in_full(trial, standings.by_model.get(trial.model_key, ()), standings.trained, base_macs)
