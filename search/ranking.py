"""The order of results where several objectives count: constrained non-dominated rank, then hypervolume.

It is that of NSGA-II (Deb et al., 2002; feasible before infeasible, these by their violation) with the exclusive
hypervolume contribution in place of the crowding distance (SMS-EMOA, Beume et al., 2007). It depends on the set of
points only, not on the order in which they came.
"""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np
import numpy.typing as npt

from sousvit.search.goals import Goals
from sousvit.search.trial import Trial

Array = npt.NDArray[np.float64]

#: Stands for a figure that is not known, so that arithmetic stays finite.
UNKNOWN = 1e12
#: The reference point lies so far beyond the worst figures, in units of their range: the ends of a front count too.
BEYOND = 0.1


def points_of(trials: Sequence[Trial], goals: Goals) -> Array:
    """``[n, m]`` what is optimised, less is better; what is not known is as bad as can be."""
    points = np.array([goals.point(trial.values) for trial in trials])
    points = np.nan_to_num(points.reshape(len(trials), len(goals.directions)), nan=np.inf)
    return np.clip(points, -UNKNOWN, UNKNOWN)


def constrained_order(points: Array, misses: Array, reached: Array | None = None) -> list[int]:
    """Places of ``points``, best first.

    Args:
        points: ``[n, m]`` figures of which less is better.
        misses: ``[n]`` worst relative violation of a limit; at most 0 where all hold.
        reached: ``[k, m]`` feasible points that are there already; what they dominate comes later, and what lies
            beyond them contributes only what they leave.
    """
    reached = np.empty((0, points.shape[1])) if reached is None else reached
    feasible = misses <= 0
    keys: list[tuple[float, ...]] = [(1.0, float(miss), 0.0) for miss in misses]
    places = np.flatnonzero(feasible)
    if len(places):
        together = np.concatenate([points[feasible], reached])
        if together.shape[1] == 1:  # one objective: a second one that never differs
            together = np.column_stack([together, np.zeros(len(together))])
        ranks, gains = _ranks(together), _contributions(together)
        for place, rank, gain in zip(places, ranks, gains, strict=False):  # the points come first
            keys[place] = (0.0, float(rank), -float(gain))
    return sorted(range(len(points)), key=lambda place: (*keys[place], *points[place]))


def _ranks(points: Array) -> npt.NDArray[np.int32]:
    """``[n]`` 0 for what no other point dominates, 1 for what only those do, and so on."""
    found: npt.NDArray[np.int32] = moocore.pareto_rank(points)
    return found


def _contributions(points: Array) -> Array:
    """``[n]`` hypervolume that the front would lose with each point, in units of the points' ranges."""
    low = points.min(axis=0)
    width = points.max(axis=0) - low
    scaled = (points - low) / np.where(width > 0, width, 1.0)
    found: Array = moocore.hv_contributions(scaled, ref=np.full(points.shape[1], 1 + BEYOND))
    return found
