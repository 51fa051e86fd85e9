"""Curves of what a policy reached, and when: hypervolume against evaluations and against time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sousvit.objectives.objective import Direction
from sousvit.search.ranking import BEYOND

Array = npt.NDArray[np.float64]

#: Resamples of seeds for an interval.
RESAMPLES = 2000


@dataclass(frozen=True)
class Curve:
    """One replay.

    Attributes:
        seconds: ``[n]`` when each evaluation ended, on the simulated clock, the policy's own time included.
        share: ``[n]`` share of the table's hypervolume reached by then.
        own_seconds: time the policy itself took.
    """

    seconds: Array
    share: Array
    own_seconds: float

    def at_evaluation(self, count: int) -> float:
        """Share after ``count`` evaluations."""
        return float(self.share[min(count, len(self.share)) - 1]) if len(self.share) else 0.0

    def at_second(self, second: float) -> float:
        """Share after ``second`` seconds."""
        place = int(np.searchsorted(self.seconds, second, side="right"))
        return float(self.share[place - 1]) if place else 0.0


class Hypervolume:
    """Share of a table's hypervolume, over objectives scaled to the range of what holds the limits.

    Args:
        points: ``[m, objectives]`` of everything that holds the limits.
        directions: per objective ``minimize`` or ``maximize``.
    """

    def __init__(self, points: Array, directions: Sequence[Direction]) -> None:
        self._signs = np.array([-1.0 if direction == "maximize" else 1.0 for direction in directions])
        signed = points * self._signs
        self._best, self._worst = signed.min(0), signed.max(0)
        self._total = self._volume(signed)

    def share(self, points: Array) -> float:
        """The share that points ``[n, objectives]`` span."""
        return self._volume(points * self._signs) / self._total if len(points) and self._total else 0.0

    def _volume(self, signed: Array) -> float:
        import moocore

        spread = np.where(self._worst > self._best, self._worst - self._best, 1.0)
        scaled = (signed - self._best) / spread
        # A single point spans no volume below its own corner, hence the margin.
        return float(moocore.hypervolume(scaled, ref=np.full(scaled.shape[1], 1 + BEYOND)))


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Mean and its 95% bootstrap interval over seeds."""
    array = np.asarray(values, float)
    drawn = np.random.default_rng(seed).choice(array, (RESAMPLES, len(array)))
    low, high = np.quantile(drawn.mean(1), (0.025, 0.975))
    return float(array.mean()), float(low), float(high)
