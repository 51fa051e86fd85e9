"""A model of the one figure that is expensive: what training decides, from a recipe's parameters.

Gaussian process regression. Ordered values are coded by rank, words one-hot, and by -1 what a recipe does not have (or
what is None among numbers). Further columns (costs, fidelity) are taken as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

#: Points that a search for hyperparameters uses at most: its time grows with their cube.
MAX_POINTS = 400
#: Points that it uses where it must take little time.
FEW_POINTS = 128
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

    def fit_at_once(self, features: Array, values: Array) -> None:
        """Learn ``values [n]`` of ``features [n, d]``, whatever was learned before; hyperparameters by some of them."""
        self._points, self._values, self._posteriors = features, values, []
        self._center = features.mean(0)
        some = np.arange(len(values))[:: math.ceil(len(values) / FEW_POINTS)]
        standard = (values[some] - values[some].mean()) / (values[some].std() or 1.0)
        self._hyperparameters = likeliest(features[some] - self._center, standard, None)

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


ROOT = float(np.sqrt(5.0))
#: Bounds of signal variance, length scales, noise variance and the trend's variance, for standardised values.
SIGNAL, SCALE, NOISE, TREND = (1e-2, 1e2), (5e-2, 2e1), (1e-6, 1e-1), (1e-4, 1e2)
#: Where the first search for them starts.
START = {"signal": 1.0, "scale": 1.0, "noise": 1e-3, "trend": 0.1}
#: Steps of one search for hyperparameters: they need no more digits than the points can tell.
STEPS = 25


@dataclass(frozen=True)
class Kernel:
    """``k(a, b) = signal (1 + sqrt5 r + 5/3 r^2) exp(-sqrt5 r) + trend a b``, all in units of the scales.

    ``r`` is the distance, ``a b`` the inner product: points are to be centred.

    Attributes:
        signal: variance of what is modelled around the trend.
        scales: ``[d]`` length scales.
        noise: variance of what is observed around it.
        trend: variance of the trend's slopes.
    """

    signal: float
    scales: Array
    noise: float
    trend: float

    def __call__(self, left: Array, right: Array) -> Array:
        """``[n, m]`` covariance of ``left [n, d]`` and ``right [m, d]``, without noise."""
        distance = self._distance(left, right)
        around = self.signal * (1 + ROOT * distance + 5 / 3 * distance**2) * np.exp(-ROOT * distance)
        found: Array = around + self.trend * (left / self.scales) @ (right / self.scales).T
        return found

    def variance(self, points: Array) -> Array:
        """``[n]`` variances of ``points [n, d]``, without noise."""
        found: Array = self.signal + self.trend * ((points / self.scales) ** 2).sum(1)
        return found

    def _distance(self, left: Array, right: Array) -> Array:
        a, b = left / self.scales, right / self.scales
        squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * (a @ b.T)
        found: Array = np.sqrt(np.maximum(squared, 0.0))
        return found


def negative_log_likelihood(theta: Array, points: Array, values: Array) -> tuple[float, Array]:
    """Of ``values [n]`` at ``points [n, d]``, with its gradient.

    Args:
        theta: ``[d + 3]`` logarithms of signal, scales, noise and trend.
    """
    from scipy.linalg import cho_solve, cholesky

    kernel = kernel_of(theta)
    count = len(values)
    distance = kernel._distance(points, points)
    np.fill_diagonal(distance, 0.0)
    decay = np.exp(-ROOT * distance)
    signal = kernel.signal * (1 + ROOT * distance + 5 / 3 * distance**2) * decay
    scaled = points / kernel.scales
    trend = kernel.trend * scaled @ scaled.T
    factor = cholesky(signal + trend + kernel.noise * np.eye(count), lower=True)
    weights = cho_solve((factor, True), values)
    value = 0.5 * values @ weights + np.log(np.diag(factor)).sum() + 0.5 * count * np.log(2 * np.pi)
    # d value / d log(t) = -1/2 tr((w w' - K^-1) dK / d log(t)), for all scales by products with the points.
    inner = np.outer(weights, weights) - cho_solve((factor, True), np.eye(count))
    slope = inner * (kernel.signal * 5 / 3 * (1 + ROOT * distance) * decay)
    by_scale = 2 * ((scaled**2 * slope.sum(1)[:, None]).sum(0) - (scaled * (slope @ scaled)).sum(0))
    by_scale -= 2 * kernel.trend * (scaled * (inner @ scaled)).sum(0)
    last = [kernel.noise * np.trace(inner), (inner * trend).sum()]
    gradient = np.concatenate([[(inner * signal).sum()], by_scale, last])
    return float(value), -0.5 * gradient


def kernel_of(theta: Array) -> Kernel:
    """The kernel of logarithmic hyperparameters ``[d + 3]``."""
    values = np.exp(theta)
    return Kernel(float(values[0]), values[1:-2], float(values[-2]), float(values[-1]))


def likeliest(points: Array, values: Array, start: Array | None = None) -> Array:
    """``[d + 3]`` the likeliest hyperparameters near ``start``, for standardised ``values [n]``."""
    from scipy.optimize import minimize

    dimensions = points.shape[1]
    if start is None:
        scales = [START["scale"]] * dimensions
        start = np.log(np.array([START["signal"], *scales, START["noise"], START["trend"]]))
    bounds = np.log(np.array([SIGNAL, *[SCALE] * dimensions, NOISE, TREND]))
    options = {"maxiter": STEPS}
    found = minimize(
        negative_log_likelihood, start, (points, values), method="L-BFGS-B", jac=True, bounds=bounds, options=options
    )
    best: Array = found.x
    return best


def leave_one_out(kernel: Kernel, points: Array, values: Array) -> Array:
    """``[n]`` what each of ``values [n]`` is predicted to be by the others (chapter 5.4.2)."""
    from scipy.linalg import cho_factor, cho_solve

    factor = cho_factor(kernel(points, points) + kernel.noise * np.eye(len(values)), lower=True)
    inverse = cho_solve(factor, np.eye(len(values)))
    found: Array = values - (inverse @ values) / np.diag(inverse)
    return found


class Posterior:
    """What a Gaussian process knows of fixed candidates; a further point costs one pass over them.

    Args:
        kernel: covariance and noise.
        candidates: ``[n, d]``.
    """

    def __init__(self, kernel: Kernel, candidates: Array) -> None:
        self._kernel, self._candidates = kernel, candidates
        self._left = kernel.variance(candidates)
        self._factor = np.empty((0, 0))  # Cholesky's, of the points' covariance
        self._rows = np.empty((0, len(candidates)))  # factor^-1 times the covariance of points and candidates

    def learn(self, points: Array) -> None:
        """Take in ``points [m, d]``; those of an earlier call come first."""
        from scipy.linalg import cholesky, solve_triangular

        count = len(self._factor)
        old, new = points[:count], points[count:]
        if not len(new):
            return
        across = np.empty((0, len(new)))
        if count:
            across = solve_triangular(self._factor, self._kernel(old, new), lower=True)
        own = self._kernel(new, new) + self._kernel.noise * np.eye(len(new))
        corner = cholesky(own - across.T @ across, lower=True)
        rows = solve_triangular(corner, self._kernel(new, self._candidates) - across.T @ self._rows, lower=True)
        self._factor = np.block([[self._factor, np.zeros((count, len(new)))], [across.T, corner]])
        self._rows = np.vstack([self._rows, rows])
        self._left -= (rows**2).sum(0)

    def predict(self, values: Array) -> tuple[Array, Array]:
        """Means and standard deviations ``[n]`` of the noiseless figure, for ``values [m]`` of the points."""
        from scipy.linalg import solve_triangular

        mean: Array = solve_triangular(self._factor, values, lower=True) @ self._rows
        return mean, np.sqrt(np.maximum(self._left, 1e-12))
