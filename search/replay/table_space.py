"""A recorded table as a search space: its configurations, what is known of each beforehand, and how they are drawn.

A configuration takes the place of a recipe, so that everything that searches recipes searches tables.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from sousvit.errors import UserError
from sousvit.spaces.recipe import RECIPE_KINDS, Recipe, Step
from sousvit.spaces.shape import ModelShape
from sousvit.spaces.space import Option, Space, Suggester, choose

#: Kinds of configuration: recorded once, or at several fidelities.
ROW, TRAINED_ROW = "row", "trained_row"
#: In the plain form every recipe has one.
RUNTIME = "onnxruntime"


@dataclass(frozen=True, kw_only=True)
class Configuration(Recipe):
    """A row's parameters in the place of a recipe: it has no steps, and its figures are looked up.

    Its plain form is that of a recipe with one step, named after its kind: archives hold both alike.

    Attributes:
        kind: ``row``, or ``trained_row`` with several fidelities.
        parameters: by column.
    """

    steps: tuple[Step, ...] = ()
    runtime: str = RUNTIME
    kind: str
    parameters: Mapping[str, Any]

    def __hash__(self) -> int:
        return hash((self.kind, frozenset(self.parameters.items())))

    @property
    def trains(self) -> bool:
        """Whether it was recorded at several fidelities."""
        return self.kind == TRAINED_ROW

    @property
    def is_repaired(self) -> bool:
        """Whether its lowest fidelity, where that is 0, tells something."""
        return self.trains

    def reshape(self, shape: ModelShape) -> ModelShape:
        if not isinstance(shape, TableShape):
            raise UserError("a row of a recorded table is no model to build", str(self), "replay its table instead")
        return shape.of(self)

    def to_dict(self) -> dict[str, Any]:
        return {"runtime": self.runtime, "steps": [{"technique": self.kind, **self.parameters}]}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Configuration:
        parameters = dict(value["steps"][0])
        return cls(kind=parameters.pop("technique"), parameters=parameters)

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(f'{name}={value}' for name, value in self.parameters.items())})"


RECIPE_KINDS.add(ROW, Configuration)
RECIPE_KINDS.add(TRAINED_ROW, Configuration)


class TableShape(ModelShape):
    """What is known of a configuration before it is evaluated.

    Args:
        exact: objectives that are known of any configuration.
        look_up: their figures, for a configuration's parameters.
        known: those of one configuration; empty for none in particular.
    """

    def __init__(
        self,
        exact: Iterable[str],
        look_up: Callable[[Mapping[str, Any]], Mapping[str, float]],
        known: Mapping[str, float] | None = None,
    ) -> None:
        self.exact_figures, self._look_up, self._known = frozenset(exact), look_up, dict(known or {})

    def of(self, configuration: Configuration) -> TableShape:
        """What is known of ``configuration``.

        Raises:
            UserError: it was not recorded.
        """
        return TableShape(self.exact_figures, self._look_up, self._look_up(configuration.parameters))

    def figures(self, bytes_per_weight: float) -> dict[str, float]:
        """The exact columns."""
        return self._known


@dataclass(frozen=True, kw_only=True)
class TableSpace(Space):
    """The configurations of a table. Only they are listed and drawn; a sampler may ask for any combination of values.

    Attributes:
        kind: of its configurations.
        choices: per parameter every value.
        rows: the configurations that were recorded.
    """

    groups: tuple[tuple[Option, ...], ...] = ()
    deploys: Mapping[str, tuple[str, Option | None]] = field(default_factory=dict)
    kind: str
    choices: Mapping[str, tuple[Any, ...]]
    rows: Sequence[Configuration]

    @property
    def trains(self) -> bool:
        """Whether there are several fidelities."""
        return self.kind == TRAINED_ROW

    def suggest(self, trial: Suggester) -> Configuration:
        """Ask ``trial`` for every parameter that has several values."""
        chosen = {name: choose(trial, self._asked_as(name), values) for name, values in self.choices.items()}
        return Configuration(kind=self.kind, parameters=chosen)

    def parameters(self, recipe: Recipe, shape: ModelShape) -> dict[str, Any] | None:
        """What :meth:`suggest` is told to give ``recipe``; None where it is no combination of the table's values."""
        if not isinstance(recipe, Configuration) or any(
            recipe.parameters.get(name) not in values for name, values in self.choices.items()
        ):
            return None
        return self._asked(recipe)

    @cached_property
    def _asked_values(self) -> dict[str, tuple[Any, ...]]:
        return {self._asked_as(name): values for name, values in self.choices.items()}

    def first_runtime(self, *steps: Step) -> str:
        """The one in the plain form."""
        return RUNTIME

    @property
    def size(self) -> int:
        """Number of configurations."""
        return len(self.rows)

    def suggestions(self) -> Iterator[tuple[dict[str, Any], Recipe]]:
        """Every configuration."""
        return map(self._suggestion, range(self.size))

    def draw(self, generator: random.Random, known: Mapping[str, Any]) -> tuple[dict[str, Any], Recipe]:
        """A random configuration among those with the ``known`` parameters; among all where none has them."""
        matches = np.ones(self.size, dtype=bool)
        for name, value in known.items():
            matches &= self._codes[name] == self._places[name].get(value, -1)
        rows = np.flatnonzero(matches)
        return self._suggestion(
            int(rows[generator.randrange(len(rows))]) if len(rows) else generator.randrange(self.size)
        )

    def _suggestion(self, row: int) -> tuple[dict[str, Any], Recipe]:
        return self._asked(self.rows[row]), self.rows[row]

    def _asked(self, row: Configuration) -> dict[str, Any]:
        return {self._asked_as(name): row.parameters[name] for name, values in self.choices.items() if len(values) > 1}

    def _asked_as(self, name: str) -> str:
        """What a parameter is called when a trial is asked for it."""
        return f"{self.kind}.{name}"

    @cached_property
    def _places(self) -> dict[str, dict[Any, int]]:
        """Per parameter that is asked the places of its values."""
        return {
            self._asked_as(name): {value: place for place, value in enumerate(values)}
            for name, values in self.choices.items()
            if len(values) > 1
        }

    @cached_property
    def _codes(self) -> dict[str, npt.NDArray[np.intp]]:
        """Per parameter ``[configurations]`` the places of their values."""
        asked = [self._asked(row) for row in self.rows]
        return {
            name: np.array([places[parameters[name]] for parameters in asked]) for name, places in self._places.items()
        }
