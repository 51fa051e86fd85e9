"""Expected hypervolume improvement where only one objective is uncertain and the others are known exactly.

Size, MACs and parameters follow from a recipe's shapes, latency from a regression with a few percent of error; only
what training decides is uncertain. With exact costs ``c`` the hypervolume that a candidate adds is an integral over
the costs above ``c``, of how far its uncertain value lies above the best one reached at those costs, and the
expectation over a normal distribution has a closed form per step of that staircase (expected improvement, Jones et al.
1998; EHVI, Emmerich et al. 2006).

Here the uncertain objective is maximised and costs are minimised; callers turn signs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

#: Candidates whose cells are computed at a time.
_CHUNK = 512
#: Standard deviations above its mean that a candidate is hoped to reach.
HOPE = 5.0
MAX_COSTS = 2


def expected_gain(mean: Array, std: Array, costs: Array, known: Array, known_costs: Array, reference: Array) -> Array:
    """Expected hypervolume that each candidate would add.

    Args:
        mean: ``[n]`` expected values of the uncertain objective.
        std: ``[n]`` standard deviations, positive.
        costs: ``[n, k]`` exact costs, k from 0 to 2.
        known: ``[m]`` values reached so far.
        known_costs: ``[m, k]`` at these costs.
        reference: ``[1 + k]`` the worst value and the highest costs that count.

    Returns:
        ``[n]``, at least 0.
    """
    worst, ceiling = reference[0], reference[1:]
    edges = [np.unique(np.clip(known_costs[:, k], None, ceiling[k])) for k in range(costs.shape[1])]
    staircase = _staircase(known, np.minimum(known_costs, ceiling), edges, worst)
    levels, places = np.unique(staircase, return_inverse=True)
    found = np.zeros(len(mean))
    # Levels rise with the costs, so whoever hardly reaches the one at its own costs adds nothing anywhere.
    own = staircase[tuple(np.searchsorted(edge, costs[:, k], side="right") for k, edge in enumerate(edges))]
    hopeful = np.flatnonzero((mean + HOPE * std > own) & (costs < ceiling).all(1))
    for start in range(0, len(hopeful), _CHUNK):
        part = hopeful[start : start + _CHUNK]
        gains = _expected_excess(mean[part, None], std[part, None], levels[None])  # [n, levels]
        widths = [_widths(costs[part, k], edges[k], ceiling[k]) for k in range(len(edges))]
        found[part] = _over_cells(gains, places, widths)
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
