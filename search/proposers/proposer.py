"""The contract of a proposer: it is asked for a recipe to try, and told what came of it.

What it need not care about: gates, fidelity, variants, crashes, and recipes that it asks for twice. A plug-in is named
in a budget as ``plugins: {proposers: [my_file.py:Mine]}``, or registered as an entry point in the group
``sousvit.proposers``; the search then says ``search: {proposer: NAME}``::

    class Unrepeated(Proposer):
        name = "unrepeated"
        summary = "drawn evenly, nothing twice"

        def ask(self, history, pending, seed):
            generator, known = random.Random(seed), {Recipe.from_dict(trial.recipe) for trial in history}.union(pending)
            for _ in range(100):
                parameters, _ = self.problem.space.draw(generator, {})
                if self.problem.recipe(parameters) not in known:
                    return Suggestion(parameters)
            return None
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from sousvit.errors import UserError
from sousvit.registry import Registry
from sousvit.search.goals import Goals
from sousvit.search.proposers import BUILTIN
from sousvit.search.trial import Trial
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.shape import ModelShape
from sousvit.spaces.space import Space


@dataclass(frozen=True)
class Problem:
    """What a search proposes recipes for.

    Attributes:
        space: what may be combined.
        shape: the base's.
        goals: the hard limits, and what is optimised.
        seed: of the search.
        expected_trials: how many the budget has.
    """

    space: Space
    shape: ModelShape
    goals: Goals
    seed: int = 0
    expected_trials: int = 100

    def recipe(self, parameters: Mapping[str, Any]) -> Recipe:
        """The canonical recipe that the space makes of ``parameters``, as trials have it.

        A step that does not fit in its place (more tokens merged than the blocks left can merge) is left out.

        Raises:
            UserError: they are not what the space asks for.
        """
        recipe = self.suggest(parameters).fitting(self.shape)
        with contextlib.suppress(UserError):  # a stand-in that does not fit: the engine rejects it
            recipe = recipe.canonical(self.shape)
        return recipe

    def suggest(self, parameters: Mapping[str, Any]) -> Recipe:
        """The recipe that the space makes of ``parameters``, before it is fitted to the base.

        Raises:
            UserError: they are not what the space asks for.
        """
        return self.space.suggest(_Given(parameters))

    def parameters(self, recipe: Recipe) -> dict[str, Any] | None:
        """What the space has to be asked for to give ``recipe``; None where it lies outside."""
        try:
            return self.space.parameters(recipe, self.shape)
        except UserError:
            return None


class _Given:
    """Answers a space's questions with known parameters."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._parameters = parameters

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        value = self._parameters.get(name)
        if value not in choices or name not in self._parameters:
            given = f"{name}: {value!r}" if name in self._parameters else f"no {name}"
            raise UserError("a proposer suggests values of the space", given, f"choose one of {list(choices)}")
        return value


@dataclass(frozen=True)
class Suggestion:
    """A recipe that a proposer would try.

    Attributes:
        parameters: what the space has to be asked for, by name (:meth:`Problem.parameters` gives those of a recipe).
        note: plain values that the proposer wants to find again with the proposal, in a resumed search too.
    """

    parameters: Mapping[str, Any]
    note: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Proposal:
    """A recipe that was asked for.

    Attributes:
        number: its place among all proposals of the search.
        parameters: what the space was asked for.
        origin: ``proposed``, or who else asked (see :class:`sousvit.search.trial.Trial`).
        problem: what is searched.
        note: the proposer's own; empty where another asked.
    """

    number: int
    parameters: Mapping[str, Any]
    origin: str
    problem: Problem = field(repr=False, compare=False)
    note: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def recipe(self) -> Recipe:
        """Canonical."""
        return self.problem.recipe(self.parameters)


class Proposer(ABC):
    """Proposes recipes for one search.

    It is made for a :class:`Problem`, asked when a worker is free, and told results as they come. Whatever it answers
    must follow from its problem, from what it was told in which order, and from what it is given with the question: so
    a search that was killed goes on as it would have.

    Class attributes:
        name: as budgets write it.
        summary: what it proposes, in one line.
    """

    name: ClassVar[str]
    summary: ClassVar[str]

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    @classmethod  # noqa: B027 - most need nothing
    def require(cls) -> None:
        """Called before anything is loaded.

        Raises:
            MissingPackageError: a package that it needs is not installed.
        """

    @abstractmethod
    def ask(self, history: Sequence[Trial], pending: Sequence[Recipe], seed: int) -> Suggestion | None:
        """What to try next.

        Args:
            history: all finished trials of the run, as measured, in order; those of an earlier question come first.
            pending: recipes on their way.
            seed: for whatever is drawn; another one with each question, the same in a resumed search.

        Returns:
            None where it has nothing to propose now: something is drawn, as when a recipe comes that is known already.
        """

    def ask_many(self, history: Sequence[Trial], pending: Sequence[Recipe], seed: int) -> Sequence[Suggestion]:
        """What to try next, several where one answer after the other would keep many workers waiting.

        Arguments as of :meth:`ask`, which gives the one by default. Those after the first wait for their turn, and in
        a resumed search too; they keep no note.
        """
        found = self.ask(history, pending, seed)
        return () if found is None else (found,)

    def begin(self, proposal: Proposal) -> None:  # noqa: B027 - most learn from the history
        """Hear of a proposal on its way: its own, a starter, or one drawn instead. They come in order of number."""

    def tell(self, trial: Trial) -> None:  # noqa: B027
        """Hear of proposal ``trial.number``: complete (as it should end in full training), gated, or failed.

        A recipe that was proposed twice is judged once and told twice.
        """

    def cost_errors(self) -> dict[str, tuple[float, int]]:
        """How well it predicts costs: per objective the median relative error, and of how many structures."""
        return {}


PROPOSERS: Registry[type[Proposer]] = Registry(
    "proposer", "sousvit.proposers", BUILTIN, base=Proposer, declares=("summary",), classes=True
)
