"""Gaussian process regression: a linear trend and an anisotropic Matern-5/2 kernel around it.

Rasmussen and Williams 2006, chapters 2, 4.2 and 5. The trend is what carries over to where there are no points yet:
cuts that each cost accuracy cost more together. Without it a prediction falls back on the mean there.

Written out because a proposal must take milliseconds: the gradient of the likelihood by all length scales needs a few
matrix products here, where general libraries build one matrix a scale. The tests hold it against scikit-learn's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

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
