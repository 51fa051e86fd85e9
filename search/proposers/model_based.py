"""The model-based proposer: costs are exact or well predicted, so only what training decides needs a surrogate.

Thousands of candidates are weighed by the hypervolume that each should add (:mod:`.acquisition`). Parameters and MACs
follow from shapes, latency and size from a regression on what the run has measured; objectives that training decides,
and limits on them, are modelled with their uncertainty. A recipe that was judged
at a low rung only counts with the figures that its full training should give
(:mod:`sousvit.search.fidelity.learning_curve`). They count as reached: what they beat is not explored beside them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from itertools import filterfalse, product
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from sousvit.objectives.objective import Measurement, get_objective
from sousvit.search.fidelity.deployments import Deployments
from sousvit.search.fidelity.learning_curve import LearningCurve, is_trained
from sousvit.search.limits import Limit
from sousvit.search.proposers.acquisition import Improvement, Weighed, probability_above
from sousvit.search.proposers.candidates import Candidates, Pool
from sousvit.search.proposers.proposer import Problem
from sousvit.search.proposers.surrogate import Surrogate
from sousvit.search.ranking import BEYOND, constrained_order, points_of
from sousvit.search.trial import Trial
from sousvit.spaces.recipe import Recipe

Array = npt.NDArray[np.float64]

#: With fewer results than this the model says nothing.
MIN_RESULTS = 8
#: From so many results on a sampler proposes alone: the model's time grows with their square.
MAX_RESULTS = 400
#: With more recipes on their way, many workers would wait for the model to weigh the next one.
MAX_PENDING = 16
#: Good recipes that candidates are made from by small changes.
PARENTS = 12
#: The standard deviation given to a figure that is certain.
CERTAIN = 1e-9


def underlying(name: str) -> str:
    """``accuracy`` of ``accuracy_drop`` or ``accuracy_ratio``."""
    return name.removesuffix("_drop").removesuffix("_ratio")


class Learned:
    """A surrogate of one figure, with what it learns from: one row a recipe, its value may be corrected later."""

    def __init__(self) -> None:
        self.recipes: list[dict[str, Any]] = []
        self.rows: list[Array] = []
        self.values: list[float] = []
        self._places: dict[str, int] = {}
        self._surrogate = Surrogate()

    def put(self, key: str, recipe: dict[str, Any], row: Array, value: float) -> None:
        """Note the figure of recipe ``key``, or correct it."""
        place = self._places.setdefault(key, len(self.values))
        if place == len(self.values):
            self.recipes.append(recipe)
            self.rows.append(row)
            self.values.append(value)
        self.values[place] = value

    def fit(self) -> None:
        """Learn what is noted; nothing before there is enough of it."""
        if len(self.values) >= MIN_RESULTS:
            self._surrogate.fit(np.array(self.rows), np.array(self.values))

    def fit_at_once(self) -> None:
        """Learn what is noted as if nothing had been learned before."""
        if len(self.values) >= MIN_RESULTS:
            self._surrogate.fit_at_once(np.array(self.rows), np.array(self.values))

    def predict(self, features: Array) -> tuple[Array, Array]:
        """Means and standard deviations ``[n]``."""
        return self._surrogate.predict(features)


class ModelBased:
    """The weighing of candidates for one search.

    Args:
        problem: its seed is that of the candidates that are drawn.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem, self._goals, self._exact = problem, problem.goals, problem.shape.exact_figures
        goals = problem.goals
        self._made: Candidates | None = None
        self._deployments = Deployments(goals)
        self._trained = [name for name in goals.directions if is_trained(name)]
        needed = [*goals.directions, *(limit.name for limit in goals.limits)]
        #: Figures that are learned; a cost that cannot be negative by its logarithm.
        self._learned = {self._source(name): Learned() for name in needed if not self._is_exact(name)}
        self._read = self._glanced = 0
        #: Recipes with results that were asked for, so that the model learns them.
        self._asked: set[str] = set()
        #: Every complete result; and per recipe the one of its highest rung, then as it should end.
        self._results: list[Trial] = []
        self._highest: dict[str, Trial] = {}
        self._hoped: list[Trial] = []
        self._features: dict[str, Array] = {}
        self._curve = LearningCurve({}, ())
        self._tried: set[str] = set()

    def cost_errors(self) -> dict[str, tuple[float, int]]:
        """How well costs are predicted: the median relative error of each, and of how many structures.

        Each is predicted by the others; recipes that share a structure share its measurement, so they count once.
        """
        found = {}
        for name, learned in self._learned.items():
            structures = [Recipe.from_dict(plain).structure().hash for plain in learned.recipes]
            first = sorted({key: place for place, key in reversed(list(enumerate(structures)))}.values())
            if not (is_trained(name) or get_objective(name).signed) and len(first) >= MIN_RESULTS:
                values = np.array([learned.values[place] for place in first])
                surrogate = Surrogate()
                surrogate.fit(np.array([learned.rows[place] for place in first]), values)
                errors = np.abs(np.expm1(surrogate.leave_one_out() - values))
                found[name] = float(np.median(errors)), len(first)
        return found

    def propose(self, records: Sequence[Trial], pending: Sequence[Recipe] = ()) -> dict[str, Any] | None:
        """Parameters of the best recipe that no record has, in a deployment that is not dominated so far.

        Args:
            records: all so far, in order; those of an earlier call come first.
            pending: on their way; taken as if they had come out as expected (Ginsbourger et al., 2010, "believer").

        Returns:
            None where too little is known yet, or too much.
        """
        if not records or self._knows_too_much or len(pending) > MAX_PENDING or self._are_too_many(records):
            return None
        with with_one_thread():
            return self._best(records, pending)

    def _best(self, records: Sequence[Trial], pending: Sequence[Recipe]) -> dict[str, Any] | None:
        self._learn(records[self._read :])
        self._read = len(records)
        if any(len(learned.values) < MIN_RESULTS for learned in self._learned.values()) or self._knows_too_much:
            return None
        awaited = [self._candidates.describe(recipe.to_dict()) for recipe in pending]
        believed = [candidate for candidate in awaited if candidate is not None]
        pool = self._candidates.untried(self._tried, map(_recipe, self._parents()))
        is_awaited = np.isin(pool.keys, [candidate.key for candidate in believed])
        dominated = self._deployments.dominated(records)
        is_open = pool.open & ~is_awaited & ~np.isin(pool.deployments, list(dominated))
        if not is_open.any():
            return None
        best, gain = self._most(pool, is_open, Pool.of(believed))
        return pool.items[best].parameters if gain > 0 else None

    def _are_too_many(self, records: Sequence[Trial]) -> bool:
        """Whether a look at results shows that the model would know too much: a resumed search need not learn them."""
        for record in records[self._glanced :]:
            is_asked = record.number is not None and record.status == "complete"
            if is_asked and any(math.isfinite(record.get(name)) for name in self._learned):
                self._asked.add(record.recipe_key)
        self._glanced = len(records)
        return len(self._asked) > MAX_RESULTS

    @property
    def _knows_too_much(self) -> bool:
        return any(len(learned.values) > MAX_RESULTS for learned in self._learned.values())

    @property
    def _candidates(self) -> Candidates:
        if self._made is None:
            problem = self._problem
            self._made = Candidates(problem.space, problem.shape, problem.goals, problem.seed)
        return self._made

    def _is_exact(self, name: str) -> bool:
        return underlying(name) in self._exact or name in self._exact

    def _source(self, name: str) -> str:
        """What is learned for ``name``: relative forms of trained objectives follow from the objective itself."""
        return underlying(name) if is_trained(name) and underlying(name) in self._goals.base else name

    def _learn(self, records: Sequence[Trial]) -> None:
        """Take results in one by one: so a resumed search knows what the undisturbed one knew."""
        for record in records:
            if self._knows_too_much:
                return
            self._tried.add(record.recipe_key)
            candidate = self._candidates.describe(record.recipe)
            if candidate is None or record.status == "failed":
                continue
            # What lies outside the space has no features: it counts as reached, and teaches nothing.
            if candidate.parameters:
                self._features[record.recipe_key] = candidate.features
            for name in filterfalse(is_trained, self._learned):
                value = to_learn(name, record)
                if value is not None and candidate.parameters:
                    self._learned[name].put(record.recipe_key, record.recipe, candidate.features, value)
            if record.status == "complete":
                self._expect(record)
            for learned in self._learned.values():
                learned.fit()

    def _expect(self, newest: Trial) -> None:
        """Correct what full trainings should give by one more result."""
        self._results.append(newest)
        known = self._highest.get(newest.recipe_key)
        self._highest[newest.recipe_key] = known if known and known.fidelity > newest.fidelity else newest
        self._curve = LearningCurve(self._references(), self._results)
        self._hoped = [self._curve.expected(record) for record in self._highest.values()]
        for name, record in product(filter(is_trained, self._learned), self._hoped):
            value, key = to_learn(name, record), record.recipe_key
            if value is not None and key in self._features:
                self._learned[name].put(key, record.recipe, self._features[key], value)

    def _references(self) -> dict[str, Measurement]:
        """What losses are counted from: the base's figures; of what it has not, the best one so far."""
        found = dict(self._goals.base)
        for name in self._learned:
            seen = [self._sign(name) * record.get(name) for record in self._results if name in record.values]
            if name not in found and is_trained(name) and seen:
                found[name] = Measurement(self._sign(name) * max(seen))
        return found

    def _parents(self) -> list[Trial]:
        """The best recipes so far, as they should end."""
        points = points_of(self._hoped, self._goals)
        misses = np.array([self._goals.miss(record.values) for record in self._hoped])
        return [self._hoped[place] for place in constrained_order(points, misses)[:PARENTS]]

    # What candidates cost, and what they should bring

    def _most(self, pool: Pool, is_open: npt.NDArray[np.bool_], believed: Pool) -> tuple[int, float]:
        """The open candidate that should add most hypervolume, and how much: 0 where all should break a limit."""
        weighed = self._weighed(pool, believed)
        improvement = Improvement(weighed.known, weighed.known_costs, weighed.reference, weighed.least)
        chance = np.where(is_open, self._chance_to_hold(pool), 0.0)
        return improvement.best(weighed.mean, weighed.std, weighed.costs, chance)

    def _weighed(self, pool: Pool, believed: Pool) -> Weighed:
        """What candidates should cost and bring, beside what was reached and what is on its way."""
        count = len(pool.items)
        uncertain = self._least_certain(pool)
        costs = [name for name in self._goals.directions if name != uncertain]
        final = [record for record in self._hoped if self._goals.miss(record.values) <= 0]
        asked = _columns([self._cost(name, pool) for name in costs], count)
        reached = _columns([self._costs_of(name, final) for name in costs], len(final))
        if believed.items:
            expected = _columns([self._cost(name, believed) for name in costs], len(believed.items))
            reached = np.concatenate([reached, expected])
        ceilings = [self._ceiling(name, asked[:, place]) for place, name in enumerate(costs)]
        if uncertain:
            source = self._source(uncertain)
            mean, std = self._expected(source, pool)
            known = self._sign(source) * np.array([r.get(source) for r in final])
            if believed.items:
                known = np.concatenate([known, self._expected(source, believed)[0]])
            worst = self._worst(uncertain, mean)
        else:
            mean, std = np.ones(count), np.full(count, CERTAIN)
            known, worst = np.ones(len(reached)), 0.0
        reference = np.array([worst, *ceilings])
        return Weighed(known, reached, reference, np.minimum(asked.min(0), reference[1:]), mean, std, asked)

    def _chance_to_hold(self, pool: Pool) -> Array:
        """``[n]`` probability that every limit holds; of one on costs 0 or 1."""
        found = np.ones(len(pool.items))
        for limit in self._goals.limits:
            if is_trained(limit.name):
                found *= probability_above(*self._expected(self._source(limit.name), pool), self._floor(limit))
            else:
                found *= self._cost(limit.name, pool) <= self._sign(limit.name) * -limit.bound
        return found

    def _least_certain(self, pool: Pool) -> str:
        """The trained objective that is known least: it is weighed as a distribution, the others as their means.

        "" where nothing that is optimised is trained.
        """

        def doubt(name: str) -> float:
            source = self._source(name)
            return float(self._expected(source, pool)[1].mean()) / (float(np.std(self._learned[source].values)) or 1.0)

        return max(self._trained, key=doubt) if len(self._trained) > 1 else next(iter(self._trained), "")

    def _worst(self, name: str, expected: Array) -> float:
        """The least sign-adjusted figure of a trained objective that counts: its limit, or the worst that there is.

        That is the worst seen; without a base a little less than the worst seen or ``expected`` of a candidate.
        """
        source = self._source(name)
        figures = self._sign(source) * np.array(self._learned[source].values)
        worst = float(figures.min())
        if source not in self._goals.base:
            figures = np.append(figures, expected)
            worst = float(figures.min() - BEYOND * np.ptp(figures))
        return max([worst, *(self._floor(limit) for limit in self._goals.limits if limit.name == name)])

    def _cost(self, name: str, pool: Pool) -> Array:
        """``[n]`` what candidates should cost, less is better: of what is to be large, its negative."""
        if is_trained(name):
            return -self._expected(self._source(name), pool)[0]
        if name not in self._learned:
            return -self._sign(name) * pool.figures[name]
        mean = self._learned[name].predict(pool.features)[0]
        return -self._sign(name) * (mean if get_objective(name).signed else np.exp(mean))

    def _costs_of(self, name: str, records: Sequence[Trial]) -> Array:
        """``[n]`` what finished recipes cost, likewise."""
        source = self._source(name) if is_trained(name) else name
        return -self._sign(source) * np.array([record.get(source) for record in records])

    def _expected(self, source: str, pool: Pool) -> tuple[Array, Array]:
        """Sign-adjusted means and deviations of what training decides, after all of it; more is better.

        What is told by low rungs is as uncertain as the share of the loss that training leaves.
        """
        mean, std = self._learned[source].predict(pool.features)
        rungs = [self._highest[key].fidelity for key in self._features if key in self._highest]
        usual = self._curve.spread(source, float(np.median(rungs)))
        reference = self._references().get(source)
        loss = np.abs(mean - reference.value) if reference is not None else np.zeros_like(mean)
        return self._sign(source) * mean, np.hypot(std, usual * loss)

    def _ceiling(self, name: str, costs: Array) -> float:
        """Cost from which on nothing is gained: the base's, or a little more than the highest there is."""
        if is_trained(name):
            return -self._worst(name, -costs)
        bounds = [-self._sign(name) * limit.bound for limit in self._goals.limits if limit.name == name]
        highest = float(costs.max()) + BEYOND * float(np.ptp(costs))
        return min([-self._sign(name) * self._goals.base[name].value if name in self._goals.base else highest, *bounds])

    def _floor(self, limit: Limit) -> float:
        """The least sign-adjusted figure that holds a limit on what training decides, intervals included."""
        source = self._source(limit.name)
        bound = limit.bound
        if source != limit.name:
            reference = self._goals.base[source].value
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


@cache
def _blas() -> ThreadpoolController:
    import scipy.linalg  # noqa: F401 - its library must be loaded to be found

    return ThreadpoolController().select(user_api="blas")


def _columns(columns: Sequence[Array], rows: int) -> Array:
    """``[rows, n]`` of n columns, which may be none."""
    return np.array(columns).T.reshape(rows, len(columns))


def with_one_thread() -> AbstractContextManager[Any]:
    """Linear algebra in one thread: of a few hundred points more cost more than they bring, most beside other work."""
    return _blas().limit(limits=1)


def to_learn(name: str, record: Trial) -> float | None:
    """What a surrogate of an objective learns of a result: of costs that cannot be negative the logarithm."""
    value = record.get(name)
    if not math.isfinite(value):
        return None
    return value if is_trained(name) or get_objective(name).signed else _log(value)


def _log(value: float) -> float:
    return math.log(max(value, 1e-9))


def _recipe(record: Trial) -> Recipe:
    return Recipe.from_dict(record.recipe)
