"""The space of a recorded table: only its configurations are listed and drawn, however few of the combinations."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from sousvit.spaces.recipe import Recipe
from sousvit.spaces.space import Option, Space

RUNTIME = "onnxruntime"


class TableSpace(Space):
    """One step that stands for a whole configuration; a sampler may ask for any combination of its values.

    Args:
        option: the step, with every value of each parameter.
        recipes: the configurations that were recorded.
    """

    _recipes: Sequence[Recipe]

    def __init__(self, option: Option, recipes: Sequence[Recipe]) -> None:
        super().__init__(((option,),), {RUNTIME: (RUNTIME, None)})
        object.__setattr__(self, "_recipes", recipes)  # a space is frozen

    @property
    def size(self) -> int:
        """Number of configurations."""
        return len(self._recipes)

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
        recipe = self._recipes[row]
        return self._option.parameters(recipe.steps[0]), recipe

    @property
    def _option(self) -> Option:
        return self.groups[0][0]

    @cached_property
    def _places(self) -> dict[str, dict[Any, int]]:
        """Per parameter that is asked the places of its values."""
        names = self._option.parameters(self._recipes[0].steps[0])
        values = {f"{self._option.technique}.{name}": values for name, values in self._option.values.items()}
        return {name: {value: place for place, value in enumerate(values[name])} for name in names}

    @cached_property
    def _codes(self) -> dict[str, npt.NDArray[np.intp]]:
        """Per parameter ``[configurations]`` the places of their values."""
        asked = [self._suggestion(row)[0] for row in range(self.size)]
        return {
            name: np.array([places[parameters[name]] for parameters in asked]) for name, places in self._places.items()
        }
