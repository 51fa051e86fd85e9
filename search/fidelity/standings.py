"""What a growing list of trials holds for promotions, kept as it grows: a search asks after every one of thousands."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import is_

import numpy as np

from sousvit.search.fidelity.learning_curve import FULL, LearningCurve
from sousvit.search.fidelity.training_cost import tells_cost
from sousvit.search.goals import Goals
from sousvit.search.ranking import Array, points_of
from sousvit.search.trial import Trial


@dataclass(frozen=True)
class Outlook:
    """What is to be expected of a trial's full training; of a final result, what it shows.

    Attributes:
        trial: what was judged.
        miss: worst relative violation of a limit; at most 0 where all hold.
        point: the figures of what is optimised; less is better.
        score: the budget's preference for them.
    """

    trial: Trial
    miss: float
    point: tuple[float, ...]
    score: float


class Standings:
    """Of one list of trials.

    Args:
        goals: what results are held against.
        can_rise: whether a result may be trained further.

    Attributes:
        waiting: by recipe, the result at the highest rung of what may rise and was not trained in full.
        best: the highest score of a final result that holds every limit; minus infinity where there is none.
        by_model: results by the model before deployment.
        trained: results whose trainings tell what training costs.
        promoted: full trainings of what was explored, without their other deployments.
        singles: results of single techniques.
    """

    def __init__(self, goals: Goals, can_rise: Callable[[Trial], bool]) -> None:
        self._goals, self._can_rise = goals, can_rise
        self._seen: list[Trial] = []
        self._source: Sequence[Trial] | None = None
        self._done: set[str] = set()
        self._rungs: dict[tuple[str, int], list[Trial]] = defaultdict(list)
        self._climbed: dict[tuple[str, int], list[Trial]] = {}
        self._curve: LearningCurve | None = None
        self._outlooks: dict[tuple[str, bool], Outlook] = {}
        self.waiting: dict[str, Trial] = {}
        self.best = -math.inf
        self._final: list[tuple[float, ...]] = []
        self._final_points: Array = np.empty((0, len(goals.directions)))
        self.by_model: dict[str, list[Trial]] = defaultdict(list)
        self.trained: list[Trial] = []
        self.promoted: list[Trial] = []
        self.singles: list[Trial] = []

    def read(self, trials: Sequence[Trial]) -> bool:
        """Take in what came since; False, and nothing changed, where ``trials`` do not begin with those known.

        A list that is given again may only have grown: what is known of it is not looked at again.
        """
        if len(trials) < len(self._seen) or not (trials is self._source or all(map(is_, self._seen, trials))):
            return False
        self._source = trials
        for trial in trials[len(self._seen) :]:
            self._seen.append(trial)
            self._take(trial)
        return True

    @property
    def final(self) -> Array:
        """``[n, m]`` points of the final results that hold every limit; less is better."""
        known = len(self._final_points)
        if known < len(self._final):
            self._final_points = np.concatenate([self._final_points, self._final[known:]])
        return self._final_points

    @property
    def curve(self) -> LearningCurve:
        """What recipes have shown that were judged at several rungs."""
        if self._curve is None:
            self._curve = LearningCurve(self._goals.base, chain.from_iterable(self._climbed.values()))
        return self._curve

    def outlooks(self, trials: Iterable[Trial], optimistic: bool) -> list[Outlook]:
        """Those of ``trials``, which are waiting; ``optimistic``: by a standard deviation better."""
        return [self._outlook(trial, optimistic) for trial in trials]

    def _outlook(self, trial: Trial, optimistic: bool) -> Outlook:
        known = self._outlooks.get((trial.recipe_key, optimistic))
        if known is None or known.trial is not trial:
            known = self._outlooks[trial.recipe_key, optimistic] = self._made(
                trial, self.curve.expected(trial, optimistic)
            )
        return known

    def _made(self, trial: Trial, expected: Trial) -> Outlook:
        point = tuple(points_of([expected], self._goals)[0])
        return Outlook(trial, self._goals.miss(expected.values), point, self._goals.score(expected.values))

    def _take(self, trial: Trial) -> None:
        self.by_model[trial.model_key].append(trial)
        if tells_cost(trial):
            self.trained.append(trial)
        if trial.is_single:
            self.singles.append(trial)
        if trial.status == "complete":
            self._take_rung(trial)
        if trial.fidelity >= FULL:
            self._take_full(trial)
        elif trial.recipe_key not in self._done and self._can_rise(trial):
            known = self.waiting.get(trial.recipe_key)
            if known is None or known.fidelity < trial.fidelity:
                self.waiting[trial.recipe_key] = trial

    def _take_full(self, trial: Trial) -> None:
        self._done.add(trial.recipe_key)
        self.waiting.pop(trial.recipe_key, None)
        if trial.origin == "promoted":
            self.promoted.append(trial)
        if trial.is_final and (outlook := self._made(trial, trial)).miss <= 0:
            self._final.append(outlook.point)
            self.best = max(self.best, outlook.score)

    def _take_rung(self, trial: Trial) -> None:
        """Where it is not the first of its recipe, it tells how training goes on."""
        recipe = (trial.recipe_key, trial.seed)
        rungs = self._rungs[recipe]
        rungs.append(trial)
        if len(rungs) > 1:
            self._climbed[recipe] = rungs
            self._curve = None
            self._outlooks.clear()
