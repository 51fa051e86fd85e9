"""Dominated deployments: each time they were tried, another one of the same weights was surely better."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from sousvit.search.goals import Goals
from sousvit.search.trial import Trial
from sousvit.spaces.recipe import Recipe


class Deployments:
    """What a growing list of trials tells of deployments (see :attr:`sousvit.spaces.recipe.Recipe.deployment`).

    Args:
        goals: what results are held against.
    """

    def __init__(self, goals: Goals) -> None:
        self._goals = goals
        #: Measured trials by weights, and per deployment those that no other deployment of their weights beats.
        self._by_weights: dict[tuple[str, float], list[Trial]] = defaultdict(list)
        self._unbeaten: dict[str, set[str]] = defaultdict(set)
        self._read = 0

    def dominated(self, trials: Sequence[Trial]) -> set[str]:
        """The deployments that are dominated.

        Args:
            trials: all so far, in order; those of an earlier call come first.
        """
        self._read_on(trials)
        return {deployment for deployment, unbeaten in self._unbeaten.items() if not unbeaten}

    def is_dominated(self, recipe: Recipe, trials: Sequence[Trial]) -> bool:
        """Whether the deployment of ``recipe`` is among those that are :meth:`dominated`."""
        self._read_on(trials)
        return recipe.deployment in self._unbeaten and not self._unbeaten[recipe.deployment]

    def _read_on(self, trials: Sequence[Trial]) -> None:
        """Hold what has come since against the deployments of the same weights."""
        for trial in trials[self._read :]:
            if all(name in trial.values for name in self._goals.directions):
                self._hold_against_siblings(trial)
        self._read = len(trials)

    def _hold_against_siblings(self, trial: Trial) -> None:
        siblings = self._by_weights[trial.model_key, trial.fidelity]
        unbeaten = self._unbeaten[trial.deployment]
        if not any(self._beats(other, trial) for other in siblings):
            unbeaten.add(trial.key)
        for other in siblings:
            if self._beats(trial, other):
                self._unbeaten[other.deployment].discard(other.key)
        siblings.append(trial)

    def _beats(self, other: Trial, trial: Trial) -> bool:
        """Surely better in all that is optimised, and holding the limits wherever ``trial`` does."""
        holds = self._goals.holds(other.values) or not self._goals.holds(trial.values)
        return holds and self._goals.dominates(self._goals.figures(other.values), trial.values)
