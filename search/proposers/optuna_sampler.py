"""Samplers of Optuna as proposers: every proposal of the search is a trial of a study in memory."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from sousvit.search.goals import Goals
from sousvit.search.proposers.proposer import Problem, Proposal, Proposer, Suggestion
from sousvit.search.trial import Trial
from sousvit.spaces.recipe import Recipe

#: Optuna ignores nothing louder than this of what it would print.
logging.getLogger("optuna").setLevel(logging.ERROR)
#: Constraint values stay finite, so that samplers can add them up.
WORST_VIOLATION = 1e6


class SamplerProposer(Proposer):
    """Asks a sampler, and tells it every result with a constraint for every limit.

    The study has the proposals of others too (starters, what was drawn instead), each with its parameters fixed, and
    those that are on their way as running trials.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._storage = InMemoryStorage()
        directions = list(problem.goals.directions.values())
        self.study = optuna.create_study(storage=self._storage, directions=directions)
        #: Where the storage has what is on its way, by the number of its proposal.
        self._running: dict[int, int] = {}
        self._asked: optuna.Trial | None = None
        #: Of every parameter that was asked for.
        self.distributions: dict[str, BaseDistribution] = {}

    @abstractmethod
    def sampler(self, seed: int) -> BaseSampler:
        """A new sampler for one question: so nothing hangs on the questions before it."""

    def ask(self, history: Sequence[Trial], pending: Sequence[Recipe], seed: int) -> Suggestion | None:
        self.study.sampler = self.sampler(seed)
        self._asked = self.study.ask()
        self.problem.space.suggest(self._asked)
        return Suggestion(self._asked.params)

    def begin(self, proposal: Proposal) -> None:
        trial, self._asked = self._asked, None
        if trial is None or trial.params != proposal.parameters:
            parameters, distributions = self.asked_as(proposal.parameters)
            begun = create_trial(state=TrialState.RUNNING, params=parameters, distributions=distributions)
            self._running[proposal.number] = self._storage.create_new_trial(self.study._study_id, begun)
        else:
            self._running[proposal.number] = trial._trial_id

    def tell(self, trial: Trial) -> None:
        assert trial.number is not None
        place, goals = self._running.pop(trial.number), self.problem.goals
        known = self._storage.get_trial(place)
        for name, value in constraints_of(trial, goals).items():
            known.set_constraint(name, value)
        state = state_of(trial, goals)
        figures = list(goals.figures(trial.values).values()) if state is TrialState.COMPLETE else None
        self._storage.set_trial_state_values(place, state, figures)

    def frozen(self, trial: Trial, parameters: Mapping[str, Any]) -> FrozenTrial:
        """A complete trial in Optuna's form, which was asked for by ``parameters``."""
        assert trial.number is not None
        goals, (asked, distributions) = self.problem.goals, self.asked_as(parameters)
        now = datetime.now()  # create_trial would hold every distribution against forms that Optuna had long ago
        found = FrozenTrial(
            trial_id=trial.number,
            number=trial.number,
            state=TrialState.COMPLETE,
            value=None,
            values=list(goals.figures(trial.values).values()),
            datetime_start=now,
            datetime_complete=now,
            params=asked,
            distributions=distributions,
            user_attrs={},
            system_attrs={},
            intermediate_values={},
        )
        for name, value in constraints_of(trial, goals).items():
            found.set_constraint(name, value)
        return found

    def asked_as(self, parameters: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
        """Parameters as a trial of Optuna has them, with their distributions."""
        space = self.problem.space
        for name in parameters:
            if name not in self.distributions and (values := space.values_of(name)) is not None:
                self.distributions[name] = CategoricalDistribution(values)
        if all(name in self.distributions for name in parameters):
            return dict(parameters), {name: self.distributions[name] for name in parameters}
        asked = FixedTrial(dict(parameters))
        space.suggest(asked)
        self.distributions.update(asked.distributions)
        return asked.params, asked.distributions


def state_of(trial: Trial, goals: Goals) -> TrialState:
    """Complete only with a finite figure of everything that is optimised; what was gated counts as pruned."""
    if trial.status == "gated":
        return TrialState.PRUNED
    is_finite = all(map(math.isfinite, goals.figures(trial.values).values()))
    return TrialState.COMPLETE if trial.status == "complete" and is_finite else TrialState.FAIL


def constraints_of(trial: Trial, goals: Goals) -> dict[str, float]:
    """A value for every limit, at most 0 where it holds.

    A gated trial says nothing of limits that were not measured; any other trial breaks those.
    """
    unmeasured = 0.0 if trial.status == "gated" else 1.0
    found = {
        limit.name: limit.violation(trial.values[limit.name]) if limit.name in trial.values else unmeasured
        for limit in goals.limits
    }
    return {name: max(-WORST_VIOLATION, min(WORST_VIOLATION, value)) for name, value in found.items()}
