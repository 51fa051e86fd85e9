"""NSGA-II of Optuna, with each generation's parents kept: Optuna alone would look at all trials at every question.

What was proposed and what came of it is kept here, in Optuna's form, and not in a study: there each would be copied
several times, and a search of 10,000 trials that goes on would wait half a minute for that.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from operator import attrgetter
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import NSGAIISampler
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

    def sampler(self, seed: int) -> _Sampler:
        return _Sampler(self._complete, seed, self.distributions)

    def ask(self, history: Sequence[Trial], pending: Sequence[Recipe], seed: int) -> Suggestion | None:
        suggestion = super().ask(history, pending, seed)
        assert suggestion is not None
        newest = self._complete.newest
        note: dict[str, Any] = {GENERATION: newest}
        if newest in self._complete.parents and newest not in self._noted:
            note[PARENTS] = [trial.number for trial in self._complete.parents[newest]]
        return replace(suggestion, note=note)

    def begin(self, proposal: Proposal) -> None:
        generation = proposal.note.get(GENERATION)
        self._begun[proposal.number] = proposal.parameters
        if type(generation) is int and 0 <= generation <= self._complete.newest:  # a log may hold anything
            self._generation_of[proposal.number] = generation
            if generation not in self._noted:
                self._noted.add(generation)
                self._choose_parents(generation, proposal.note.get(PARENTS))

    def _choose_parents(self, generation: int, noted: Any) -> None:
        """Keep the parents of a generation: those chosen with its first question, from what was complete then."""
        before = self._complete.before(generation)
        are_known = isinstance(noted, list) and all(type(number) is int and number in before for number in noted)
        if are_known and generation not in self._complete.parents:
            self._complete.choose(generation, noted)
        else:
            self.sampler(0).get_parent_population(self.study, generation)

    def tell(self, trial: Trial) -> None:
        assert trial.number is not None
        parameters = self._begun.pop(trial.number)
        if state_of(trial, self.problem.goals) is TrialState.COMPLETE:
            if self._complete.shared is None:
                self.asked_as(parameters)  # so that the distributions of what all have are known
            self._complete.add(_Told(trial, parameters, self), self._generation_of.pop(trial.number, None))


class _Told:
    """A complete trial, and on demand its form in Optuna: only parents and the generation before them need it."""

    def __init__(self, trial: Trial, parameters: Mapping[str, Any], proposer: SamplerProposer) -> None:
        assert trial.number is not None
        self.number, self.parameters = trial.number, parameters
        self._trial, self._proposer = trial, proposer

    @cached_property
    def frozen(self) -> FrozenTrial:
        """In Optuna's form."""
        return self._proposer.frozen(self._trial, self.parameters)


class _Complete:
    """The complete trials.

    Attributes:
        shared: names of the parameters that all of them have, in the order of the first.
        generations: trials in the order of their numbers.
        parents: of each generation that has begun.
    """

    def __init__(self) -> None:
        self.shared: list[str] | None = None
        self.generations: dict[int, list[_Told]] = {}
        self.parents: dict[int, list[_Told]] = {}

    def add(self, trial: _Told, generation: int | None) -> None:
        """Take in one more; of no ``generation`` where others proposed it."""
        known = list(trial.parameters) if self.shared is None else self.shared
        self.shared = [name for name in known if name in trial.parameters]
        if generation is not None:
            insort(self.generations.setdefault(generation, []), trial, key=_number)

    def before(self, generation: int) -> dict[int, _Told]:
        """What the parents of a generation are chosen from, by number: the one before it, and its own parents."""
        last = generation - 1
        return {trial.number: trial for trial in [*self.generations.get(last, ()), *self.parents.get(last, ())]}

    def choose(self, generation: int, numbers: Sequence[int]) -> None:
        """Keep the parents of a ``generation``."""
        before = self.before(generation)
        self.parents[generation] = [before[number] for number in sorted(set(numbers))]

    @property
    def newest(self) -> int:
        """The generation of the next proposal: the newest one, or the next where that is full."""
        newest = max(self.generations, default=0)
        return newest + (len(self.generations.get(newest, ())) >= POPULATION)


class _Sampler(NSGAIISampler):
    def __init__(self, complete: _Complete, seed: int, distributions: Mapping[str, BaseDistribution]) -> None:
        super().__init__(seed=seed, population_size=POPULATION)
        self._known, self._distributions = complete, distributions

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {name: self._distributions[name] for name in self._known.shared or ()}

    def get_trial_generation(self, study: optuna.Study, trial: FrozenTrial) -> int:
        return self._known.newest

    def get_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        return [trial.frozen for trial in self._known.generations.get(generation, ())]

    def get_parent_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        if generation not in self._known.parents:
            chosen = self.select_parent(study, generation) if generation else []
            self._known.choose(generation, [trial.number for trial in chosen])
            return chosen  # best first for this question, as Optuna does
        return [trial.frozen for trial in self._known.parents[generation]]
