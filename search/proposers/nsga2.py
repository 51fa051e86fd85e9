"""NSGA-II of Optuna, with each generation's parents kept: Optuna alone would look at all trials at every question."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler
from optuna.trial import FrozenTrial

from sousvit.search.proposers.optuna_sampler import SamplerProposer
from sousvit.search.proposers.proposer import Problem, Proposal, Suggestion
from sousvit.search.trial import Trial
from sousvit.spaces.recipe import Recipe

POPULATION = 50
#: In the note of a proposal: its generation.
GENERATION = "generation"
_number = attrgetter("number")


class Nsga2(SamplerProposer):
    """NSGA-II: a generation has parents once the one before it is full; what others propose is of no generation."""

    name = "nsga2"
    summary = "Optuna's genetic algorithm with non-dominated sorting (NSGA-II)"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._complete = _Complete()
        self._generation_of: dict[int, int] = {}

    def sampler(self, seed: int) -> BaseSampler:
        return _Sampler(self._complete, seed)

    def ask(self, history: Sequence[Trial], pending: Sequence[Recipe], seed: int) -> Suggestion | None:
        suggestion = super().ask(history, pending, seed)
        assert suggestion is not None
        return replace(suggestion, note={GENERATION: self._complete.newest})

    def begin(self, proposal: Proposal) -> None:
        super().begin(proposal)
        generation = proposal.note.get(GENERATION)
        if generation is not None:
            self._generation_of[proposal.number] = generation
            # Chosen with the first question of a generation, from what was complete then.
            _Sampler(self._complete, 0).get_parent_population(self.study, generation)

    def learn(self, number: int, trial: FrozenTrial) -> None:
        self._complete.add(trial, self._generation_of.get(number))


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
        self.shared = {name: values for name, values in known.items() if name in trial.distributions}
        if generation is not None:
            insort(self.generations.setdefault(generation, []), trial, key=_number)

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
