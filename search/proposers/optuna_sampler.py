"""Samplers of Optuna as proposers: every proposal of the search is a trial of a study in memory."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Sequence

import optuna
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

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
        self.study = optuna.create_study(directions=list(problem.goals.directions.values()))
        self._others = RandomSampler(seed=0)  # asked for nothing: what others propose is fixed
        self._running: dict[int, optuna.Trial] = {}
        self._asked: optuna.Trial | None = None

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
            self.study.sampler = self._others
            self.study.enqueue_trial(dict(proposal.parameters))
            trial = self.study.ask()
            self.problem.space.suggest(trial)
        self._running[proposal.number] = trial

    def tell(self, trial: Trial) -> None:
        assert trial.number is not None
        asked, goals = self._running.pop(trial.number), self.problem.goals
        for name, value in constraints_of(trial, goals).items():
            asked.set_constraint(name, value)
        state = state_of(trial, goals)
        figures = list(goals.figures(trial.values).values()) if state is TrialState.COMPLETE else None
        told = self.study.tell(asked, figures, state)
        if state is TrialState.COMPLETE:
            self.learn(trial.number, told)

    def learn(self, number: int, trial: FrozenTrial) -> None:
        """Called with every complete trial of the study, and the number of its proposal."""


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
