"""Candidates: recipes that may be asked for next, with what is known of each before it is paid for.

Of a small space every recipe is a candidate; of a larger one a sample, refreshed by changes to good recipes.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sousvit.errors import UserError
from sousvit.files import content_hash
from sousvit.objectives.objective import Measurement
from sousvit.search.goals import Goals
from sousvit.search.judging.gate import analytic_values
from sousvit.search.proposers.surrogate import Encoder
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.shape import ModelShape
from sousvit.spaces.space import Space

Array = npt.NDArray[np.float64]

#: Candidates of a space too large to be listed, and how many are drawn anew for every proposal.
SAMPLED, FRESH = 1200, 60
#: Share of fresh candidates that are changed good recipes, not drawn anew.
CHANGED = 0.8


@dataclass(frozen=True)
class Candidate:
    """A recipe that may be asked.

    Attributes:
        key: identity of the canonical recipe, as in the archive.
        parameters: what Optuna is asked for.
        features: columns for a surrogate: coded parameters and logarithms of the exact figures.
        figures: what follows from shapes alone, by objective name.
        deployment: see :attr:`sousvit.spaces.recipe.Recipe.deployment`.
    """

    key: str
    parameters: dict[str, Any]
    features: Array
    figures: dict[str, float]
    deployment: str


@dataclass(frozen=True)
class Pool:
    """Candidates side by side.

    Attributes:
        items: the candidates.
        keys: ``[n]`` their keys.
        open: ``[n]`` whether each may still be asked.
        features: ``[n, d]`` their columns.
        figures: ``[n]`` arrays of what follows from shapes, by objective name.
        deployments: ``[n]`` how each is deployed.
    """

    items: list[Candidate]
    keys: npt.NDArray[np.str_]
    open: npt.NDArray[np.bool_]
    features: Array
    figures: dict[str, Array]
    deployments: npt.NDArray[np.str_]

    @classmethod
    def of(cls, items: list[Candidate]) -> Pool:
        """All of ``items``, open."""
        features = np.array([item.features for item in items])
        names = items[0].figures if items else ()
        figures = {name: np.array([item.figures[name] for item in items]) for name in names}
        keys = np.array([item.key for item in items], dtype=str)
        deployments = np.array([item.deployment for item in items], dtype=str)
        return cls(items, keys, np.ones(len(items), dtype=bool), features, figures, deployments)


class Candidates:
    """The candidates of one search.

    Args:
        space: what may be combined.
        shape: the base's.
        goals: candidates that break a limit by their shape are left out.
        seed: of what is drawn.
    """

    def __init__(self, space: Space, shape: ModelShape, goals: Goals, seed: int) -> None:
        self._space, self._shape, self._goals = space, shape, goals
        self._random = random.Random(seed)
        self._known: dict[str, Candidate] = {}
        self._pool: Pool | None = None
        self._places: dict[str, int] = {}
        self._described: dict[str, Candidate | None] = {}
        self._asked: dict[str, dict[str, Any]] = {}
        self.is_listed = space.is_listed
        suggestions = list(space.suggestions()) if self.is_listed else [self._draw({}) for _ in range(SAMPLED)]
        self._encode = Encoder([parameters for parameters, _ in suggestions])
        for parameters, recipe in suggestions:
            self._add(parameters, recipe)
        #: Those that there were at first.
        self.sample = list(self._known.values())

    def untried(self, tried: set[str], good: Iterable[Recipe]) -> Pool:
        """Candidates, open where their key is not in ``tried``; a sample is refreshed around ``good`` recipes first.

        Of a listed space the pool and its arrays stay the same objects.
        """
        if not self.is_listed:
            self._refresh(good)
            for key in tried.intersection(self._known):
                del self._known[key]
        if self._pool is None or not self.is_listed:
            self._pool = Pool.of(list(self._known.values()))
            self._places = {key: place for place, key in enumerate(self._known)}
        self._pool.open[[self._places[key] for key in tried if key in self._places]] = False
        return self._pool

    def drawn(self, good: Sequence[Recipe], count: int, generator: random.Random) -> list[Candidate]:
        """So many candidates drawn anew, most of them changed ``good`` recipes; of a listed space none is new."""
        if self.is_listed:
            return []
        parents = [parameters for recipe in good if (parameters := self._parameters(recipe))]
        found = []
        for _ in range(count):
            changed = bool(parents) and generator.random() < CHANGED
            parameters, recipe = self._draw(generator.choice(parents) if changed else {}, generator)
            candidate = self._candidate(parameters, recipe.fitting(self._shape))
            if candidate is not None and self._may_hold(candidate):
                found.append(candidate)
        return found

    def describe(self, plain: Mapping[str, Any], key: str = "") -> Candidate | None:
        """A recipe of the archive as a candidate; None where its shape does not work.

        Args:
            key: identity of ``plain``, where it is known.
        """
        key = key or content_hash(plain)
        if key not in self._described:
            recipe = Recipe.from_dict(plain)
            self._described[key] = self._candidate(self._parameters(recipe), recipe)
        return self._described[key]

    def _parameters(self, recipe: Recipe) -> dict[str, Any]:
        """What Optuna would be asked for; nothing for a recipe that lies outside or does not fit."""
        key = recipe.hash
        if key not in self._asked:
            self._asked[key] = {}
            with contextlib.suppress(UserError):
                self._asked[key] = self._space.parameters(recipe, self._shape) or {}
        return self._asked[key]

    def _refresh(self, good: Iterable[Recipe]) -> None:
        parents = [parameters for recipe in good if (parameters := self._parameters(recipe))]
        for _ in range(FRESH):
            changed = bool(parents) and self._random.random() < CHANGED
            self._add(*self._draw(self._random.choice(parents) if changed else {}))
        while len(self._known) > 2 * SAMPLED:
            self._known.pop(next(iter(self._known)))

    def _draw(self, parent: Mapping[str, Any], generator: random.Random | None = None) -> tuple[dict[str, Any], Recipe]:
        """A random suggestion, or ``parent`` with one or two parameters drawn anew."""
        known, generator = dict(parent), generator or self._random
        for name in generator.sample(sorted(known), min(len(known), generator.choice((1, 1, 2)))):
            known.pop(name)
        return self._space.draw(generator, known)

    def _add(self, parameters: dict[str, Any], recipe: Recipe) -> None:
        candidate = self._candidate(parameters, recipe.fitting(self._shape))
        if candidate is not None and self._may_hold(candidate):
            self._known.setdefault(candidate.key, candidate)

    def _may_hold(self, candidate: Candidate) -> bool:
        """Whether its shape breaks no limit."""
        known = {name: Measurement(value) for name, value in candidate.figures.items()}
        return not self._goals.violations(known, measured_only=True)

    def _candidate(self, parameters: dict[str, Any], recipe: Recipe) -> Candidate | None:
        try:
            recipe = recipe.canonical(self._shape)
            values = analytic_values(recipe, self._shape, self._goals.base)
        except UserError:
            return None
        figures = {name: value.value for name, value in values.items()}
        logs = [math.log(max(value, 1e-9)) for name, value in figures.items() if not name.endswith("_ratio")]
        features = np.concatenate([self._encode(parameters), logs])
        return Candidate(content_hash(recipe.to_dict()), parameters, features, figures, recipe.deployment)
