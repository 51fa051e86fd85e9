"""Expected hypervolume improvement where only one objective is uncertain and the others are known exactly.

Size, MACs and parameters follow from a recipe's shapes, latency from a regression with a few percent of error; only
what training decides is uncertain. With exact costs ``c`` the hypervolume that a candidate adds is an integral over
the costs above ``c``: of how far its uncertain value lies above the best one reached at those costs. That best value is
a staircase, and per step of it the expectation over a normal distribution has a closed form (expected improvement,
Jones et al. 1998; EHVI, Emmerich et al. 2006). With three costs and more there are too many steps, and the integral is
estimated at points spread evenly over the costs.

Here the uncertain objective is maximised and costs are minimised; callers turn signs.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

#: Candidates whose cells are computed at a time.
_CHUNK = 256
#: Standard deviations above its mean that a candidate is hoped to reach.
HOPE = 5.0
#: With more costs the integral is estimated, from so many points.
EXACT_COSTS, POINTS = 2, 1024
#: Points for a whole batch, whose improvements get small.
MANY_POINTS = 4096


@dataclass(frozen=True)
class Weighed:
    """Candidates beside what is reached, as :class:`Improvement` takes them.

    Attributes:
        known: ``[m]`` values reached so far.
        known_costs: ``[m, k]`` at these costs.
        reference: ``[1 + k]`` the worst value and the highest costs that count.
        least: ``[k]`` the least costs of any candidate.
        mean: ``[n]`` expected values of the candidates.
        std: ``[n]`` their standard deviations.
        costs: ``[n, k]`` their exact costs.
    """

    known: Array
    known_costs: Array
    reference: Array
    least: Array
    mean: Array
    std: Array
    costs: Array


def greedy(weighed: Weighed, chance: Array, count: int) -> list[int]:
    """Places of ``count`` candidates at most that add most together, each the best beside those before it.

    The integral over the costs is estimated at points spread evenly. What a candidate adds only falls as others are
    chosen, so it is computed anew only for those that were the best by what they added before (Minoux, 1978).

    Args:
        chance: ``[n]`` factors of what each adds.
    """
    worst, ceiling = float(weighed.reference[0]), weighed.reference[1:]
    points = weighed.least + (ceiling - weighed.least) * _spread_points(len(ceiling), MANY_POINTS)
    levels = np.full(len(points), worst)
    for start in range(0, len(weighed.known), _CHUNK):
        part = slice(start, start + _CHUNK)
        reach = _reach(weighed.known_costs[part], points)
        levels = np.maximum(levels, np.where(reach, weighed.known[None, part], worst).max(1, initial=worst))
    hopeful = np.flatnonzero((chance > 0) & (weighed.costs < ceiling).all(1))

    def gain(place: int) -> float:
        above = (weighed.costs[place] <= points).all(1)
        excess = _expected_excess(weighed.mean[place], weighed.std[place], levels[above])
        return float(chance[place] * excess.sum())

    waiting = [(-gain(place), place) for place in map(int, hopeful)]
    heapq.heapify(waiting)
    chosen: list[int] = []
    while waiting and len(chosen) < count:
        _, place = heapq.heappop(waiting)
        now = gain(place)
        if waiting and now < -waiting[0][0]:
            heapq.heappush(waiting, (-now, place))
            continue
        if now <= 0:
            break
        chosen.append(place)
        above = (weighed.costs[place] <= points).all(1)
        levels[above] = np.maximum(levels[above], weighed.mean[place])
    return chosen


class Improvement:
    """Expected hypervolume that candidates would add to what is reached.

    Args:
        known: ``[m]`` values reached so far.
        known_costs: ``[m, k]`` at these costs.
        reference: ``[1 + k]`` the worst value and the highest costs that count.
        least: ``[k]`` the least costs of any candidate.
    """

    def __init__(self, known: Array, known_costs: Array, reference: Array, least: Array) -> None:
        worst, self._ceiling = float(reference[0]), reference[1:]
        best = _non_dominated(known, np.minimum(known_costs, self._ceiling))
        known, known_costs = known[best], known_costs[best]
        self._levels: _Levels
        if known_costs.shape[1] <= EXACT_COSTS:
            self._levels = _Cells(known, known_costs, worst, self._ceiling)
        else:
            self._levels = _Points(known, known_costs, worst, self._ceiling, least)

    def expected(self, mean: Array, std: Array, costs: Array) -> Array:
        """The improvement by candidates with uncertain values and exact costs.

        Args:
            mean: ``[n]`` expected values of the uncertain objective.
            std: ``[n]`` standard deviations, positive.
            costs: ``[n, k]`` exact costs.

        Returns:
            ``[n]``, at least 0.
        """
        found = np.zeros(len(mean))
        hopeful = np.flatnonzero(self._is_hopeful(mean, std, costs))
        for start in range(0, len(hopeful), _CHUNK):
            part = hopeful[start : start + _CHUNK]
            excess = _expected_excess(mean[part, None], std[part, None], self._levels.values[None])
            found[part] = self._levels.integral(excess, costs[part])
        return found

    def best(self, mean: Array, std: Array, costs: Array, chance: Array) -> tuple[int, float]:
        """The candidate that adds most, and what it adds; arguments as for :meth:`expected`.

        What nobody has reached rises with the costs, so no candidate adds more than its excess at its own costs over
        the whole box above them. Only those are weighed exactly that may be best by that bound.

        Args:
            chance: ``[n]`` factors of what each adds.
        """
        own, place, most = self._levels.at(costs), 0, 0.0
        bound = chance * _expected_excess(mean, std, own) * self._levels.volume(costs)
        bound[~self._is_hopeful(mean, std, costs)] = 0.0
        order = np.argsort(-bound, kind="stable")
        for start in range(0, len(order), _CHUNK):
            part = order[start : start + _CHUNK]
            if bound[part[0]] <= most:
                break
            gains = chance[part] * self.expected(mean[part], std[part], costs[part])
            if gains.max() > most:
                place, most = int(part[gains.argmax()]), float(gains.max())
        return place, most

    def _is_hopeful(self, mean: Array, std: Array, costs: Array) -> npt.NDArray[np.bool_]:
        """``[n]``: levels rise with the costs, so whoever hardly reaches the one at its own costs adds nothing."""
        found: npt.NDArray[np.bool_] = (costs < self._ceiling).all(1) & (mean + HOPE * std > self._levels.at(costs))
        return found


class _Levels(Protocol):
    """What was reached at which costs: a staircase.

    Attributes:
        values: ``[levels]`` the heights of its steps.
    """

    values: Array

    def at(self, costs: Array) -> Array:
        """``[n]`` the best value reached at ``costs [n, k]``."""

    def volume(self, costs: Array) -> Array:
        """``[n]`` volume of the box above ``costs [n, k]``."""

    def integral(self, heights: Array, costs: Array) -> Array:
        """``[n]`` of ``heights [n, levels]`` over the box above ``costs [n, k]``."""


class _Cells:
    """Cell by cell: exact."""

    def __init__(self, known: Array, known_costs: Array, worst: float, ceiling: Array) -> None:
        clipped = np.minimum(known_costs, ceiling)
        self._ceiling = ceiling
        self._edges = [np.unique(column) for column in clipped.T]
        self._stairs = _staircase(known, clipped, self._edges, worst)
        self.values, self._places = np.unique(self._stairs, return_inverse=True)

    def at(self, costs: Array) -> Array:
        places = tuple(
            np.searchsorted(edge, column, side="right") for edge, column in zip(self._edges, costs.T, strict=True)
        )
        found: Array = np.broadcast_to(self._stairs[places], len(costs))
        return found

    def volume(self, costs: Array) -> Array:
        found: Array = np.clip(self._ceiling - costs, 0.0, None).prod(1)
        return found

    def integral(self, heights: Array, costs: Array) -> Array:
        found = heights[:, self._places.reshape(-1)].reshape(len(heights), *self._stairs.shape)
        for k in reversed(range(len(self._edges))):
            widths = _widths(costs[:, k], self._edges[k], self._ceiling[k])
            found = np.matmul(found.reshape(len(heights), -1, widths.shape[1]), widths[:, :, None])[..., 0]
        return found.reshape(len(heights))


class _Points:
    """Estimated: the mean over points spread over the box of costs, times its volume."""

    def __init__(self, known: Array, known_costs: Array, worst: float, ceiling: Array, least: Array) -> None:
        self._known, self._known_costs, self._worst = known, known_costs, worst
        # The points hang on the box alone, so that all candidates are weighed alike.
        self._points = least + (ceiling - least) * _spread_points(len(ceiling))
        self.values, places = np.unique(self.at(self._points), return_inverse=True)
        self._share = np.prod(ceiling - least) / POINTS
        self._members = np.zeros((POINTS, len(self.values)))
        self._members[np.arange(POINTS), places.reshape(-1)] = self._share

    def at(self, costs: Array) -> Array:
        found: Array = np.where(_reach(self._known_costs, costs), self._known, self._worst).max(1, initial=self._worst)
        return found

    def volume(self, costs: Array) -> Array:
        found: Array = _reach(costs, self._points).sum(0) * self._share
        return found

    def integral(self, heights: Array, costs: Array) -> Array:
        found: Array = ((_reach(costs, self._points).T @ self._members) * heights).sum(1)
        return found


def _reach(costs: Array, points: Array) -> npt.NDArray[np.bool_]:
    """``[p, n]``: whether ``points [p, k]`` allow ``costs [n, k]``."""
    found = np.ones((len(points), len(costs)), dtype=bool)
    for k in range(costs.shape[1]):
        found &= costs[None, :, k] <= points[:, None, k]
    return found


def _non_dominated(known: Array, known_costs: Array) -> npt.NDArray[np.bool_]:
    """``[m]``: the others lie below the staircase, and would only cut its cells."""
    is_beaten = _reach(known_costs, known_costs) & (known[None] >= known[:, None])  # [beaten, by]
    found: npt.NDArray[np.bool_] = np.logical_not((is_beaten & ~is_beaten.T).any(1))
    return found


@cache
def _spread_points(dimensions: int, count: int = POINTS) -> Array:
    """``[count, dimensions]`` evenly over the unit cube."""
    from scipy.stats import qmc

    found: Array = qmc.Sobol(dimensions, seed=0).random(count) if dimensions else np.empty((1, 0))
    return found


def probability_above(mean: Array, std: Array, level: float) -> Array:
    """``[n]`` probabilities that normal variables exceed ``level``."""
    from scipy.special import ndtr

    below: Array = ndtr((level - mean) / std)
    return 1.0 - below


def _staircase(known: Array, known_costs: Array, edges: list[Array], worst: float) -> Array:
    """Best value reached at the lower corner of every cell; the first cell of an axis lies below all points."""
    levels = np.full([len(edge) + 1 for edge in edges], worst)
    if not edges:
        return np.full((), known.max(initial=worst))
    places = tuple(np.searchsorted(edge, known_costs[:, k]) + 1 for k, edge in enumerate(edges))
    np.maximum.at(levels, places, known)
    for axis in range(len(edges)):
        levels = np.maximum.accumulate(levels, axis=axis)
    return levels


def _widths(costs: Array, edges: Array, ceiling: float) -> Array:
    """``[n, cells]``: the part of every cell of one axis that lies above each candidate's cost."""
    lower = np.concatenate([[-np.inf], edges])
    upper = np.concatenate([edges, [ceiling]])
    found: Array = np.clip(np.minimum(upper, ceiling)[None] - np.maximum(lower[None], costs[:, None]), 0.0, None)
    return found


def _expected_excess(mean: Array, std: Array, level: Array) -> Array:
    """Expected positive part of a normal variable above ``level``."""
    from scipy.special import ndtr

    z = (mean - level) / std
    found: Array = std * (z * ndtr(z) + np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi))
    return found
