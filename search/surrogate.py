"""A model of the one figure that is expensive: what training decides, from a recipe's parameters.

Gaussian process regression (:mod:`sousvit.search.gaussian_process`). Ordered values are coded by rank, words one-hot,
what a recipe does not ask for (or what is None among numbers) by -1; further columns (costs, fidelity) are taken as
they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sousvit.search.gaussian_process import Posterior, kernel_of, leave_one_out, likeliest

Array = npt.NDArray[np.float64]

#: Points that a search for hyperparameters uses at most: its time grows with their cube.
MAX_POINTS = 400
#: Hyperparameters are fitted again when the points have grown by this factor.
GROWTH = 1.15
#: Points that the first fit waits for, where more come.
FIRST = 8
ABSENT = -1.0


class Encoder:
    """Turns parameters into columns.

    Args:
        examples: parameter mappings that show every name and value.
    """

    def __init__(self, examples: Sequence[Mapping[str, Any]]) -> None:
        values: dict[str, dict[Any, None]] = {}
        for example in examples:
            for name, value in example.items():
                values.setdefault(name, {})[value] = None
        self._ordered = {name: _ranks(seen.keys() - {None}) for name, seen in values.items() if _is_ordered(seen)}
        self._words = {name: list(seen) for name, seen in values.items() if name not in self._ordered}

    def __call__(self, parameters: Mapping[str, Any]) -> Array:
        """One row; a value never seen lies between its neighbours, or is no known word."""
        row = [_rank(parameters.get(name), values) for name, values in self._ordered.items()]
        for name, words in self._words.items():
            row += [float(parameters.get(name) == word) if name in parameters else ABSENT for word in words]
        return np.array(row)


def _is_ordered(values: Mapping[Any, None]) -> bool:
    """Whether they are numbers; some may be missing."""
    known = values.keys() - {None}
    return bool(known) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in known)


def _ranks(values: Iterable[float]) -> dict[float, float]:
    """Ascending values with their places between 0 and 1."""
    ordered = sorted(values)
    return {value: place / max(1, len(ordered) - 1) for place, value in enumerate(ordered)}


def _rank(value: float | None, ranks: Mapping[float, float]) -> float:
    if value is None:
        return ABSENT
    known = ranks.get(value)
    return float(np.interp(value, list(ranks), list(ranks.values()))) if known is None else known


class Surrogate:
    """A Gaussian process that takes points as they come; its hyperparameters are fitted again only now and then."""

    def __init__(self) -> None:
        self._hyperparameters: Array | None = None
        self._fitted_on = 0
        self._points: Array = np.empty((0, 0))
        self._values: Array = np.empty(0)
        self._center: Array = np.zeros(0)
        #: What was asked of last, the newest at the end: candidates, and in between those that are on their way.
        self._posteriors: list[tuple[Array, Posterior]] = []

    def fit(self, features: Array, values: Array) -> None:
        """Learn ``values [n]`` of ``features [n, d]``; those of an earlier call come first."""
        self._points, self._values = features, values
        while (count := self._next_fit()) <= len(values):
            self._fitted_on, self._posteriors = count, []
            latest, points = values[:count][-MAX_POINTS:], features[:count][-MAX_POINTS:]
            standard = (latest - latest.mean()) / (latest.std() or 1.0)
            self._center = points.mean(0)
            self._hyperparameters = likeliest(points - self._center, standard, self._hyperparameters)

    def _next_fit(self) -> int:
        """How many points the next search for hyperparameters sees: the same if they come one by one or at once."""
        if not self._fitted_on:
            return min(FIRST, len(self._values))
        return max(self._fitted_on + 1, math.ceil(GROWTH * self._fitted_on))

    def predict(self, features: Array) -> tuple[Array, Array]:
        """Means and standard deviations ``[n]`` of the noiseless values; asking the same array again is cheap."""
        posterior = self._posterior(features)
        posterior.learn(self._points - self._center)
        middle, spread = float(self._values.mean()), float(self._values.std()) or 1.0
        mean, std = posterior.predict((self._values - middle) / spread)
        return middle + spread * mean, spread * std

    def _posterior(self, features: Array) -> Posterior:
        assert self._hyperparameters is not None
        kept = [entry for entry in self._posteriors if entry[0] is features]
        if not kept:
            kept = [(features, Posterior(kernel_of(self._hyperparameters), features - self._center))]
        self._posteriors = [entry for entry in self._posteriors if entry[0] is not features][-1:] + kept
        return kept[0][1]

    def leave_one_out(self) -> Array:
        """``[n]`` each value that it learned, as predicted by the others."""
        assert self._hyperparameters is not None
        middle, spread = float(self._values.mean()), float(self._values.std()) or 1.0
        standard = (self._values - middle) / spread
        return middle + spread * leave_one_out(kernel_of(self._hyperparameters), self._points - self._center, standard)
