"""Expected hypervolume improvement where only one objective is uncertain and the others are known exactly.

Size, MACs and parameters follow from a recipe's shapes, latency from a regression with a few percent of error; only
what training decides is uncertain. With exact costs ``c`` the hypervolume that a candidate adds is an integral over
the costs above ``c``, of how far its uncertain value lies above the best one reached at those costs, and the
expectation over a normal distribution has a closed form per step of that staircase (expected improvement, Jones et al.
1998; EHVI, Emmerich et al. 2006). With three costs and more the staircase has too many steps, and the integral is
estimated at points spread evenly over the costs.

Here the uncertain objective is maximised and costs are minimised; callers turn signs.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

#: Candidates whose cells are computed at a time.
_CHUNK = 512
#: Standard deviations above its mean that a candidate is hoped to reach.
HOPE = 5.0
#: With more costs the integral is estimated, from so many points.
EXACT_COSTS, POINTS = 2, 1024


def expected_gain(mean: Array, std: Array, costs: Array, known: Array, known_costs: Array, reference: Array) -> Array:
    """Expected hypervolume that each candidate would add.

    Args:
        mean: ``[n]`` expected values of the uncertain objective.
        std: ``[n]`` standard deviations, positive.
        costs: ``[n, k]`` exact costs.
        known: ``[m]`` values reached so far.
        known_costs: ``[m, k]`` at these costs.
        reference: ``[1 + k]`` the worst value and the highest costs that count.

    Returns:
        ``[n]``, at least 0.
    """
    worst, ceiling = reference[0], reference[1:]
    found = np.zeros(len(mean))
    inside = np.flatnonzero((costs < ceiling).all(1))
    estimate = _by_cells if costs.shape[1] <= EXACT_COSTS else _by_points
    found[inside] = estimate(mean[inside], std[inside], costs[inside], known, known_costs, worst, ceiling)
    return found


def _by_cells(
    mean: Array, std: Array, costs: Array, known: Array, known_costs: Array, worst: float, ceiling: Array
) -> Array:
    """``[n]`` exact gains, cell by cell of the staircase."""
    edges = [np.unique(np.clip(known_costs[:, k], None, ceiling[k])) for k in range(costs.shape[1])]
    staircase = _staircase(known, np.minimum(known_costs, ceiling), edges, worst)
    levels, places = np.unique(staircase, return_inverse=True)
    found = np.zeros(len(mean))
    # Levels rise with the costs, so whoever hardly reaches the one at its own costs adds nothing anywhere.
    own = staircase[tuple(np.searchsorted(edge, costs[:, k], side="right") for k, edge in enumerate(edges))]
    hopeful = np.flatnonzero(mean + HOPE * std > own)
    for start in range(0, len(hopeful), _CHUNK):
        part = hopeful[start : start + _CHUNK]
        gains = _expected_excess(mean[part, None], std[part, None], levels[None])  # [n, levels]
        widths = [_widths(costs[part, k], edges[k], ceiling[k]) for k in range(len(edges))]
        found[part] = _over_cells(gains, places, widths)
    return found


def _by_points(
    mean: Array, std: Array, costs: Array, known: Array, known_costs: Array, worst: float, ceiling: Array
) -> Array:
    """``[n]`` estimated gains: the mean over points of the box of costs, times its volume."""
    if not len(mean):
        return np.zeros(0)
    low = costs.min(0)
    # The points hang on the box alone, so that candidates of one call are weighed alike.
    points = low + (ceiling - low) * _spread_points(costs.shape[1])
    reached = np.where((known_costs[None] <= points[:, None]).all(2), known[None], worst)
    levels, places = np.unique(reached.max(1, initial=worst), return_inverse=True)
    members = np.zeros((len(points), len(levels)))
    members[np.arange(len(points)), places.reshape(-1)] = np.prod(ceiling - low) / len(points)
    own = np.where((known_costs[None] <= costs[:, None]).all(2), known[None], worst).max(1, initial=worst)
    hopeful = np.flatnonzero(mean + HOPE * std > own)
    found = np.zeros(len(mean))
    for start in range(0, len(hopeful), _CHUNK):
        part = hopeful[start : start + _CHUNK]
        above = (points[None] >= costs[part, None]).all(2) @ members  # [n, levels]
        found[part] = (above * _expected_excess(mean[part, None], std[part, None], levels[None])).sum(1)
    return found


@cache
def _spread_points(dimensions: int) -> Array:
    """``[points, dimensions]`` evenly over the unit cube."""
    from scipy.stats import qmc

    found: Array = qmc.Sobol(dimensions, seed=0).random(POINTS)
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


def _over_cells(gains: Array, places: npt.NDArray[np.intp], widths: list[Array]) -> Array:
    found: Array
    if not widths:
        found = gains[:, places.reshape(-1)[0]]
    elif len(widths) == 1:
        found = (gains[:, places.reshape(-1)] * widths[0]).sum(1)
    else:
        found = np.einsum("nij,ni,nj->n", gains[:, places.reshape(widths[0].shape[1], -1)], *widths)
    return found
