"""NSGA-II of Optuna, with each generation's parents kept: Optuna alone would look at all trials at every question.

What was proposed and what came of it is kept here, in Optuna's form, and not in a study: there each would be copied
several times, and a search of 10,000 trials that goes on would wait half a minute for that.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler
from optuna.trial import FrozenTrial, TrialState

from sousvit.search.proposers.optuna_sampler import SamplerProposer, state_of
from sousvit.search.proposers.proposer import Problem, Proposal, Suggestion
from sousvit.search.trial import Trial
from sousvit.spaces.recipe import Recipe

POPULATION = 50
#: In the note of a proposal: its generation, and of the first one the numbers of that generation's parents.
GENERATION, PARENTS = "generation", "parents"
_number = attrgetter("number")


class Nsga2(SamplerProposer):
    """NSGA-II: a generation has parents once the one before it is full; what others propose is of no generation."""

    name = "nsga2"
    summary = "Optuna's genetic algorithm with non-dominated sorting (NSGA-II)"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._complete = _Complete()
        self._generation_of: dict[int, int] = {}
        #: Parameters of what is on its way, by number; and the generations whose parents are in some note.
        self._begun: dict[int, Mapping[str, Any]] = {}
        self._noted: set[int] = set()

    def sampler(self, seed: int) -> BaseSampler:
        return _Sampler(self._complete, seed)

    def ask(self, history: Sequence[Trial], pending: Sequence[Recipe], seed: int) -> Suggestion | None:
        suggestion = super().ask(history, pending, seed)
        assert suggestion is not None
        note: dict[str, Any] = {GENERATION: self._complete.newest}
        if self._complete.newest not in self._noted:  # the first question of a generation chose its parents
            note[PARENTS] = [trial.number for trial in self._complete.parents.get(self._complete.newest, ())]
        return replace(suggestion, note=note)

    def begin(self, proposal: Proposal) -> None:
        generation = proposal.note.get(GENERATION)
        self._begun[proposal.number] = proposal.parameters
        if generation is not None:
            self._generation_of[proposal.number] = generation
            if generation not in self._noted:
                self._noted.add(generation)
                self._complete.choose(generation, proposal.note.get(PARENTS))
            # Chosen with the first question of a generation, from what was complete then.
            _Sampler(self._complete, 0).get_parent_population(self.study, generation)

    def tell(self, trial: Trial) -> None:
        assert trial.number is not None
        parameters = self._begun.pop(trial.number)
        if state_of(trial, self.problem.goals) is TrialState.COMPLETE:
            told = self.frozen(trial, parameters)
            told.number = trial.number
            self._complete.add(told, self._generation_of.get(trial.number))


class _Complete:
    """The complete trials.

    Attributes:
        shared: the parameters that all of them have.
        generations: trials in the order of their numbers.
        parents: of each generation that has begun.
    """

    def __init__(self) -> None:
        self.shared: dict[str, BaseDistribution] | None = None
        self.generations: dict[int, list[FrozenTrial]] = {}
        self.parents: dict[int, list[FrozenTrial]] = {}

    def add(self, trial: FrozenTrial, generation: int | None) -> None:
        """Take in one more; of no ``generation`` where others proposed it."""
        known = trial.distributions if self.shared is None else self.shared
        if self.shared is None or not known.keys() <= trial.distributions.keys():
            self.shared = {name: values for name, values in known.items() if name in trial.distributions}
        if generation is not None:
            insort(self.generations.setdefault(generation, []), trial, key=_number)

    def choose(self, generation: int, numbers: object) -> None:
        """Take the noted parents of a ``generation``, where all of them are known; others are chosen anew."""
        before = [*self.generations.get(generation - 1, ()), *self.parents.get(generation - 1, ())]
        by_number = {trial.number: trial for trial in before}
        if isinstance(numbers, list) and all(type(number) is int and number in by_number for number in numbers):
            self.parents.setdefault(generation, [by_number[number] for number in sorted(set(numbers))])

    @property
    def newest(self) -> int:
        """The generation of the next proposal: the newest one, or the next where that is full."""
        newest = max(self.generations, default=0)
        return newest + (len(self.generations.get(newest, ())) >= POPULATION)


class _Sampler(NSGAIISampler):
    def __init__(self, complete: _Complete, seed: int) -> None:
        super().__init__(seed=seed, population_size=POPULATION)
        self._known = complete

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._known.shared or {})

    def get_trial_generation(self, study: optuna.Study, trial: FrozenTrial) -> int:
        return self._known.newest

    def get_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        return self._known.generations.get(generation, [])

    def get_parent_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        if generation not in self._known.parents:
            chosen = self.select_parent(study, generation) if generation else []
            self._known.parents[generation] = sorted(chosen, key=_number)
            return chosen  # best first for this question, as Optuna does
        return self._known.parents[generation]
