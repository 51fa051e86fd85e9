"""Proposes what is worth most in expectation: costs are exact or well predicted, only training needs a surrogate.

Thousands of candidates are weighed by the hypervolume that each should add (:mod:`sousvit.search.acquisition`).
Parameters and MACs follow from shapes, latency and size from a regression on what the run has measured; objectives
that training decides, and limits on them, are modelled with their uncertainty, over all rungs together (the fidelity
is a column).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sousvit.objectives.objective import Stage, get_objective
from sousvit.search.acquisition import MAX_COSTS, expected_gain, probability_above
from sousvit.search.budget import Limit
from sousvit.search.candidates import Candidate, Candidates, Pool
from sousvit.search.record import TrialRecord, Value
from sousvit.search.surrogate import Surrogate
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.shape import ModelShape
from sousvit.spaces.space import Space

Array = npt.NDArray[np.float64]

#: Fewer results than this say too little.
MIN_RESULTS = 8
#: From so many results on a sampler proposes alone: the model's time grows with their square.
MAX_RESULTS = 400
#: With more recipes on their way, many workers would wait for the model to weigh the next one.
MAX_PENDING = 16
#: Where a reading without any training lies on the logarithmic scale of fidelities.
LEAST_FIDELITY = 2.0**-6
#: What a certain figure is given as a standard deviation.
CERTAIN = 1e-9


def underlying(name: str) -> str:
    """``accuracy`` of ``accuracy_drop`` or ``accuracy_ratio``."""
    return name.removesuffix("_drop").removesuffix("_ratio")


def is_trained(name: str) -> bool:
    """Whether training decides the objective."""
    return get_objective(name).stage is Stage.TRAINED


class _Learned:
    """A surrogate of one figure, with what it learns from."""

    def __init__(self) -> None:
        self.recipes: list[dict[str, Any]] = []
        self.rows: list[Array] = []
        self.values: list[float] = []
        self._surrogate, self._fitted = Surrogate(), 0

    def add(self, recipe: dict[str, Any], row: Array, value: float) -> None:
        self.recipes.append(recipe)
        self.rows.append(row)
        self.values.append(value)

    def predict(self, features: Array) -> tuple[Array, Array]:
        if len(self.values) != self._fitted:
            self._surrogate.fit(np.array(self.rows), np.array(self.values))
            self._fitted = len(self.values)
        return self._surrogate.predict(features)


class ModelBased:
    """Weighs candidates for one search.

    Args:
        space: what may be combined.
        shape: the base's.
        base: the base's figures.
        senses: per optimised objective, whether more is better.
        limits: the hard limits.
        seed: of the candidates that are drawn.
    """

    def __init__(
        self,
        space: Space,
        shape: ModelShape,
        base: Mapping[str, Value],
        senses: Mapping[str, bool],
        limits: Sequence[Limit],
        seed: int,
    ) -> None:
        self._base, self._limits, self._exact = base, limits, shape.exact_figures
        self._make = lambda: Candidates(space, shape, base, limits, seed)
        self._made: Candidates | None = None
        self._trained = [name for name in senses if is_trained(name)]
        self._costs = [name for name in senses if not is_trained(name)]
        self.applies = (
            len(self._trained) <= 1 and len(self._costs) <= MAX_COSTS and not any(senses[name] for name in self._costs)
        )
        needed = [*senses, *(limit.name for limit in limits)]
        #: Figures that are learned; a cost by its logarithm.
        self._learned = {self._source(name): _Learned() for name in needed if not self._is_exact(name)}
        self._read = 0
        self._results: list[TrialRecord] = []
        self._tried: set[str] = set()

    def cost_errors(self) -> dict[str, tuple[float, int]]:
        """How well costs are predicted: the median relative error of each, and of how many structures.

        Each is predicted by the others; recipes that share a structure share its measurement, so they count once.
        """
        found = {}
        for name, learned in self._learned.items():
            structures = [Recipe.from_dict(plain).structure().hash for plain in learned.recipes]
            first = sorted({key: place for place, key in reversed(list(enumerate(structures)))}.values())
            if not is_trained(name) and len(first) >= MIN_RESULTS:
                values = np.array([learned.values[place] for place in first])
                surrogate = Surrogate()
                surrogate.fit(np.array([learned.rows[place] for place in first]), values)
                errors = np.abs(np.expm1(surrogate.leave_one_out() - values))
                found[name] = float(np.median(errors)), len(first)
        return found

    def propose(self, records: Sequence[TrialRecord], pending: Sequence[Recipe] = ()) -> dict[str, Any] | None:
        """Parameters of the best recipe that no record has.

        Args:
            records: all so far, in order; those of an earlier call come first.
            pending: on their way; taken as if they had come out as expected (Ginsbourger et al., 2010, "believer").

        Returns:
            None where this way of proposing does not apply, or too little is known yet.
        """
        if not self.applies or len(records) > MAX_RESULTS or len(pending) > MAX_PENDING:
            return None
        self._learn(records[self._read :])
        self._read = len(records)
        if any(len(learned.values) < MIN_RESULTS for learned in self._learned.values()):
            return None
        awaited = [self._candidates.describe(recipe.to_dict()) for recipe in pending]
        believed = [candidate for candidate in awaited if candidate is not None]
        pool = self._candidates.untried(self._tried, map(_recipe, self._best()))
        is_open = pool.open & ~np.isin(pool.keys, [candidate.key for candidate in believed])
        if not is_open.any():
            return None
        gains = np.where(is_open, self._gains(pool, Pool.of(believed)), 0.0)
        best = int(np.argmax(gains))
        return pool.items[best].parameters if gains[best] > 0 else None

    @property
    def _candidates(self) -> Candidates:
        if self._made is None:
            self._made = self._make()
        return self._made

    def _is_exact(self, name: str) -> bool:
        return underlying(name) in self._exact or name in self._exact

    def _source(self, name: str) -> str:
        """What is learned for ``name``: relative forms of trained objectives follow from the objective itself."""
        return underlying(name) if is_trained(name) and underlying(name) in self._base else name

    def _learn(self, records: Sequence[TrialRecord]) -> None:
        for record in records:
            self._tried.add(record.recipe_key)
            candidate = self._candidates.describe(record.recipe)
            if candidate is None or record.status == "failed":
                continue
            if record.status == "complete":
                self._results.append(record)
            for name, learned in self._learned.items():
                value = record.get(name)
                if math.isfinite(value):
                    trained = is_trained(name)
                    row = _row(candidate, record.fidelity, trained)
                    learned.add(record.recipe, row, value if trained else _log(value))

    def _best(self) -> list[TrialRecord]:
        """The results that no other beats in all that is optimised, whatever their rung."""
        points = np.array([[self._sign(n) * -r.get(n) for n in (*self._trained, *self._costs)] for r in self._results])
        return [
            result
            for result, point in zip(self._results, points, strict=True)
            if not ((points <= point).all(1) & (points < point).any(1)).any()
        ]

    # What candidates cost, and what they should bring

    def _gains(self, pool: Pool, believed: Pool) -> Array:
        """``[n]``: hypervolume to be expected of each, 0 where it should break a limit on costs."""
        count = len(pool.items)
        costs = {name: self._cost(name, pool) for name in self._needed_costs()}
        final = [r for r in self._results if r.is_final and self._holds(r)]
        asked = np.array([costs[name] for name in self._costs]).T.reshape(count, len(self._costs))
        reached = np.array([[r.get(name) for name in self._costs] for r in final]).reshape(len(final), len(self._costs))
        if believed.items:
            expected_costs = np.array([self._cost(name, believed) for name in self._costs]).T
            reached = np.concatenate([reached, expected_costs.reshape(len(believed.items), len(self._costs))])
        ceilings = [self._ceiling(name, costs[name]) for name in self._costs]
        if self._trained:
            optimised = self._source(self._trained[0])
            mean, std = self._expected(optimised, pool)
            known = self._sign(optimised) * np.array([r.get(optimised) for r in final])
            if believed.items:
                known = np.concatenate([known, self._expected(optimised, believed)[0]])
            seen = self._sign(optimised) * np.array(self._learned[optimised].values)
            worst = max([seen.min(), *(self._floor(limit) for limit in self._limits if limit.name == optimised)])
        else:
            mean, std = np.ones(count), np.full(count, CERTAIN)
            known, worst = np.ones(len(reached)), 0.0
        gains = expected_gain(mean, std, asked, known, reached, np.array([worst, *ceilings]))
        for limit in self._limits:
            if is_trained(limit.name):
                expected = self._expected(self._source(limit.name), pool)
                gains = gains * probability_above(*expected, self._floor(limit))
            else:
                cost = costs[limit.name]
                gains = np.where(cost >= limit.bound if limit.maximise else cost <= limit.bound, gains, 0.0)
        return gains

    def _holds(self, record: TrialRecord) -> bool:
        return all(limit.violation(record.values.get(limit.name)) <= 0 for limit in self._limits)

    def _needed_costs(self) -> list[str]:
        limited = [limit.name for limit in self._limits if not is_trained(limit.name)]
        return list(dict.fromkeys([*self._costs, *limited]))

    def _cost(self, name: str, pool: Pool) -> Array:
        if name not in self._learned:
            return pool.figures[name]
        return np.exp(self._learned[name].predict(pool.features)[0])

    def _expected(self, source: str, pool: Pool) -> tuple[Array, Array]:
        """Sign-adjusted means and deviations of what training decides, after all of it; more is better."""
        mean, std = self._learned[source].predict(pool.full)
        return self._sign(source) * mean, std

    def _ceiling(self, name: str, costs: Array) -> float:
        """Cost from which on nothing is gained: the base's, or the highest there is."""
        bounds = [limit.bound for limit in self._limits if limit.name == name]
        return min([self._base[name].value if name in self._base else float(costs.max()) * 1.01, *bounds])

    def _floor(self, limit: Limit) -> float:
        """The least sign-adjusted figure that holds a limit on what training decides, intervals included."""
        source = self._source(limit.name)
        bound = limit.bound
        if source != limit.name:
            reference = self._base[source].value
            bound = reference - bound if limit.name.endswith("_drop") else reference * bound
        margins = [
            abs(limit.cautious(r.values[limit.name]) - r.get(limit.name))
            for r in self._results
            if r.is_final and limit.name in r.values
        ]
        return self._sign(source) * bound + (float(np.median(margins)) if margins else 0.0)

    @staticmethod
    def _sign(name: str) -> float:
        return 1.0 if get_objective(name).direction == "maximize" else -1.0


def _row(candidate: Candidate, fidelity: float, trained: bool) -> Array:
    return np.append(candidate.features, math.log2(max(fidelity, LEAST_FIDELITY))) if trained else candidate.features


def _log(value: float) -> float:
    return math.log(max(value, 1e-9))


def _recipe(record: TrialRecord) -> Recipe:
    return Recipe.from_dict(record.recipe)
