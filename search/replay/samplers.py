"""Plain Optuna, as a user could run it instead of ours: samplers over the same space, without any of our levers.

Every recipe is judged at full fidelity; a repeated one costs nothing; what makes a recipe break a hard limit is told to
the sampler as a constraint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import optuna

from sousvit.search.goals import Goals
from sousvit.search.proposers.optuna_sampler import WORST_VIOLATION
from sousvit.search.proposers.samplers import gp_sampler, qlognehvi_sampler
from sousvit.search.trial import Trial
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.space import Space

#: Proposals in a row that bring nothing new before a policy gives up.
PATIENCE = 50


class Evaluations(Protocol):
    """What a sampler searches."""

    seed: int

    @property
    def space(self) -> Space:
        """Where recipes come from."""

    @property
    def goals(self) -> Goals:
        """The objectives and the hard limits."""

    @property
    def is_over(self) -> bool:
        """Whether what the search may take is spent."""

    @property
    def paid(self) -> int:
        """Evaluations so far, repeated ones not counted."""

    def evaluate(self, recipe: Recipe) -> Trial | None:
        """A recipe's final result; None where it has none."""


#: By name, what makes one for a seed and a number of objectives.
SAMPLERS: dict[str, Callable[[int, int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed, objectives: optuna.samplers.TPESampler(seed=seed),
    "nsga2": lambda seed, objectives: optuna.samplers.NSGAIISampler(seed=seed),
    "random": lambda seed, objectives: optuna.samplers.RandomSampler(seed=seed),
    "gp": lambda seed, objectives: gp_sampler(seed),
    "qlognehvi": qlognehvi_sampler,
}


def run_sampler(name: str, source: Evaluations) -> None:
    """Ask, evaluate and tell until ``source`` is over or the sampler brings nothing new."""
    directions = list(source.goals.directions.values())
    study = optuna.create_study(directions=directions, sampler=SAMPLERS[name](source.seed, len(directions)))
    for _ in until_over(source):
        trial = study.ask()
        record = source.evaluate(source.space.suggest(trial))
        for limit in source.goals.limits:
            violation = 1.0 if record is None else limit.violation(record.values.get(limit.name))
            trial.set_constraint(limit.name, min(WORST_VIOLATION, violation))
        if record is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        study.tell(trial, list(source.goals.figures(record.values).values()))


def until_over(source: Evaluations) -> Iterator[None]:
    """Turns until ``source`` is over, or so many in a row have brought nothing new."""
    idle, paid = 0, 0
    while not source.is_over and idle < PATIENCE:
        yield
        idle = 0 if source.paid > paid else idle + 1
        paid = source.paid
