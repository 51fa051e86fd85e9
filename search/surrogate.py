"""A model of the one figure that is expensive: what training decides, from a recipe's parameters.

Gaussian process regression (Rasmussen and Williams 2006) with an anisotropic Matern kernel by scikit-learn. Ordered
values are coded by rank, words one-hot, what a recipe does not ask for by -1; further columns (costs, fidelity) are
taken as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

#: Points that a search for hyperparameters uses at most: its time grows with their cube.
MAX_POINTS = 400
#: Hyperparameters are fitted again when the points have grown by this factor.
GROWTH = 1.15
ABSENT = -1.0
#: Steps of one search for hyperparameters.
STEPS = 25


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
        self._ordered = {name: sorted(seen) for name, seen in values.items() if _is_ordered(seen)}
        self._words = {name: list(seen) for name, seen in values.items() if name not in self._ordered}

    def __call__(self, parameters: Mapping[str, Any]) -> Array:
        """One row; a value never seen lies between its neighbours, or is no known word."""
        row = [_rank(parameters.get(name), values) for name, values in self._ordered.items()]
        for name, words in self._words.items():
            row += [float(parameters.get(name) == word) if name in parameters else ABSENT for word in words]
        return np.array(row)


def _is_ordered(values: Mapping[Any, None]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _rank(value: float | None, values: Sequence[float]) -> float:
    if value is None:
        return ABSENT
    if len(values) == 1:
        return 0.0
    return float(np.interp(value, values, np.linspace(0.0, 1.0, len(values))))


def _minimise(objective: Any, start: Array, bounds: Array) -> tuple[Array, float]:
    """L-BFGS, stopped early: hyperparameters need no more digits than the points can tell."""
    from scipy.optimize import minimize

    found = minimize(objective, start, method="L-BFGS-B", jac=True, bounds=bounds, options={"maxiter": STEPS})
    return found.x, float(found.fun)


class Posterior:
    """What a Gaussian process knows of fixed candidates; a further point costs one pass over them.

    Args:
        kernel: covariance without noise.
        noise: variance of what is observed around it.
        candidates: ``[n, d]``.
    """

    def __init__(self, kernel: Any, noise: float, candidates: Array) -> None:
        self._kernel, self._noise, self._candidates = kernel, noise, candidates
        self._left = np.array(kernel.diag(candidates))
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
        own = self._kernel(new) + self._noise * np.eye(len(new))
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


class Surrogate:
    """A Gaussian process that takes points as they come; its hyperparameters are fitted again only now and then."""

    def __init__(self) -> None:
        self._kernel: Any = None
        self._fitted_on = 0
        self._points: Array = np.empty((0, 0))
        self._values: Array = np.empty(0)
        self._posterior: tuple[Array, Posterior] | None = None

    def fit(self, features: Array, values: Array) -> None:
        """Learn ``values [n]`` of ``features [n, d]``; those of an earlier call come first."""
        self._points, self._values = features, values
        if len(values) >= GROWTH * self._fitted_on:
            self._fitted_on, self._posterior = len(values), None
            self._kernel = _fitted_kernel(self._kernel, features[-MAX_POINTS:], values[-MAX_POINTS:])

    def predict(self, features: Array) -> tuple[Array, Array]:
        """Means and standard deviations ``[n]`` of the noiseless values; asking the same array again is cheap."""
        if self._posterior is None or self._posterior[0] is not features:
            noise = float(self._kernel.k2.noise_level)
            self._posterior = features, Posterior(self._kernel.k1, noise, features)
        posterior = self._posterior[1]
        posterior.learn(self._points)
        middle, spread = float(self._values.mean()), float(self._values.std()) or 1.0
        mean, std = posterior.predict((self._values - middle) / spread)
        return middle + spread * mean, spread * std


def _fitted_kernel(last: Any, features: Array, values: Array) -> Any:
    """Covariance with the likeliest hyperparameters, searched from where the last search ended."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    if last is None:
        signal = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(np.ones(features.shape[1]), (5e-2, 2e1), nu=2.5)
        last = signal + WhiteKernel(1e-3, (1e-6, 1e-1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a scale at its bound is an answer here
        model = GaussianProcessRegressor(last, optimizer=_minimise, normalize_y=True).fit(features, values)
    return model.kernel_
