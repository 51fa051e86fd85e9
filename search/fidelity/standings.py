"""The standings of a search: where its trials should stand after full training, kept up to date as they grow."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from sousvit.search.fidelity.learning_curve import FULL, LearningCurve, is_trained
from sousvit.search.fidelity.training_cost import tells_cost
from sousvit.search.fidelity.underway import is_late
from sousvit.search.goals import Goals
from sousvit.search.ranking import UNKNOWN, Array
from sousvit.search.trial import Trial


@dataclass(frozen=True)
class Standing:
    """The place where a trial should stand after its full training; a final result stands where it is.

    Attributes:
        miss: worst relative violation of a limit; at most 0 where all hold.
        point: the figures of what is optimised; less is better.
        score: the budget's preference for them.
    """

    miss: float
    point: tuple[float, ...]
    score: float


class Standings:
    """What is known of a list of trials that only grows; :meth:`read_on` takes in what came since.

    Args:
        trials: in the order in which they finished.
        goals: what results are held against.

    Attributes:
        waiting: by recipe, the result at the highest rung of what may rise and was not trained in full.
        best: the highest score of a final result that holds every limit; minus infinity where there is none.
        by_model: results by the model before deployment.
        trained: results whose trainings tell what training costs.
        promoted: full trainings of what was explored, without their other deployments.
        singles: results of single techniques.
        num_explored, num_late: how many were explored below the full rung, and trained in full after that with their
            variants; ``late_seconds`` is what the latter took, and ``seconds`` what all did.
        base_macs: the base's multiply-accumulates (millions), 0 where they are not known.
    """

    def __init__(self, trials: Sequence[Trial], goals: Goals) -> None:
        self._trials, self._goals = trials, goals
        self.base_macs = goals.base["macs"].value if "macs" in goals.base else 0.0
        self._lasting = goals.only(lambda name: not is_trained(name))
        self._read = 0
        self._done: set[str] = set()
        self._rungs: dict[tuple[str, int], list[Trial]] = defaultdict(list)
        self._climbed: dict[tuple[str, int], list[Trial]] = {}
        self._curve: LearningCurve | None = None
        #: By trial, and whether it is looked at with optimism; as far as the curve is known.
        self._expected: dict[tuple[str, bool], Standing] = {}
        self.waiting: dict[str, Trial] = {}
        self.best = -math.inf
        self._final: list[tuple[float, ...]] = []
        self._final_points: Array = np.empty((0, len(goals.directions)))
        self.by_model: dict[str, list[Trial]] = defaultdict(list)
        self.trained: list[Trial] = []
        self.promoted: list[Trial] = []
        self.singles: list[Trial] = []
        self.num_explored = self.num_late = 0
        self.seconds = self.late_seconds = 0.0

    def read_on(self) -> None:
        """Take in the trials that came since the last time."""
        for trial in self._trials[self._read :]:
            self._read += 1
            self._take(trial)

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

    def expected(self, trial: Trial, optimistic: bool) -> Standing:
        """Where ``trial`` should stand after its full training; ``optimistic``: by a standard deviation better."""
        key = trial.key, optimistic
        if key not in self._expected:
            self._expected[key] = self._standing(self.curve.expected(trial, optimistic))
        return self._expected[key]

    def can_rise(self, trial: Trial) -> bool:
        """Whether it may be trained further: a result below the full one, of which no limit is broken for good."""
        return trial.status == "complete" and trial.fidelity < FULL and self._lasting.holds(trial.values)

    def _standing(self, trial: Trial) -> Standing:
        point = tuple(
            UNKNOWN if math.isnan(figure) else min(max(figure, -UNKNOWN), UNKNOWN)
            for figure in self._goals.point(trial.values)
        )
        return Standing(self._goals.miss(trial.values), point, self._goals.score(trial.values))

    def _take(self, trial: Trial) -> None:
        self.by_model[trial.model_key].append(trial)
        seconds = sum(trial.seconds.values())
        self.seconds += seconds
        if is_late(trial):
            self.num_late, self.late_seconds = self.num_late + 1, self.late_seconds + seconds
        self.num_explored += trial.status == "complete" and trial.fidelity < FULL
        if tells_cost(trial):
            self.trained.append(trial)
        if trial.is_single:
            self.singles.append(trial)
        if trial.status == "complete":
            self._take_rung(trial)
        if trial.fidelity >= FULL:
            self._take_full(trial)
        elif trial.recipe_key not in self._done and self.can_rise(trial):
            known = self.waiting.get(trial.recipe_key)
            if known is None or known.fidelity < trial.fidelity:
                self.waiting[trial.recipe_key] = trial

    def _take_full(self, trial: Trial) -> None:
        self._done.add(trial.recipe_key)
        self.waiting.pop(trial.recipe_key, None)
        if trial.origin == "promoted":
            self.promoted.append(trial)
        if trial.is_final and (standing := self._standing(trial)).miss <= 0:
            self._final.append(standing.point)
            self.best = max(self.best, standing.score)

    def _take_rung(self, trial: Trial) -> None:
        """Take in a result at a rung; one that is not the first of its recipe tells how training goes on."""
        recipe = (trial.recipe_key, trial.seed)
        rungs = self._rungs[recipe]
        rungs.append(trial)
        if len(rungs) > 1:
            self._climbed[recipe] = rungs
            self._curve = None
            self._expected.clear()
