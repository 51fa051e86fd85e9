"""Gaussian process regression, held against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import check_grad

from sousvit.search.gaussian_process import Posterior, kernel_of, leave_one_out, likeliest, negative_log_likelihood


@pytest.fixture
def data():
    random = np.random.default_rng(0)
    points = random.uniform(0, 1, (40, 5))
    values = np.sin(3 * points[:, 0]) + points[:, 1] * points[:, 2] + random.normal(0, 0.02, 40)
    return points, (values - values.mean()) / values.std()


@pytest.fixture
def theta():
    return np.log(np.array([1.7, 0.3, 0.8, 1.2, 5.0, 2.0, 4e-3]))


def reference(theta):
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    signal, scales, noise = np.exp(theta[0]), np.exp(theta[1:-1]), np.exp(theta[-1])
    return ConstantKernel(signal) * Matern(scales, nu=2.5) + WhiteKernel(noise)


def test_the_kernel_is_sklearns(data, theta):
    points, _ = data
    other = points[:7] + 0.1
    assert kernel_of(theta)(points, other) == pytest.approx(reference(theta).k1(points, other), abs=1e-12)


def test_the_likelihood_is_sklearns_and_its_gradient_true(data, theta):
    from sklearn.gaussian_process import GaussianProcessRegressor

    model = GaussianProcessRegressor(reference(theta), optimizer=None, alpha=0.0).fit(*data)
    value, gradient = negative_log_likelihood(theta, *data)
    expected, slopes = model.log_marginal_likelihood(theta, eval_gradient=True)
    assert value == pytest.approx(-expected)
    assert gradient == pytest.approx(-slopes, rel=1e-6, abs=1e-8)
    value_of, slope_of = (lambda t, part=part: negative_log_likelihood(t, *data)[part] for part in (0, 1))
    found = check_grad(value_of, slope_of, theta)
    assert found < 1e-3


def test_what_it_predicts_is_what_sklearn_predicts(data, theta):
    from sklearn.gaussian_process import GaussianProcessRegressor

    points, values = data
    asked = np.random.default_rng(1).uniform(0, 1, (11, 5))
    model = GaussianProcessRegressor(reference(theta), optimizer=None, alpha=0.0).fit(points, values)
    mean, std = model.predict(asked, return_std=True)
    posterior = Posterior(kernel_of(theta), asked)
    for count in (5, 6, 40):
        posterior.learn(points[:count])
    found_mean, found_std = posterior.predict(values)
    assert found_mean == pytest.approx(mean, abs=1e-8)
    noise = np.exp(theta[-1])
    assert found_std == pytest.approx(np.sqrt(std**2 - noise), abs=1e-8)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_search_finds_hyperparameters_at_least_as_likely_as_sklearns(data):
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    start = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(np.ones(5), (5e-2, 2e1), nu=2.5) + WhiteKernel(1e-3, (1e-6, 1e-1))
    model = GaussianProcessRegressor(start).fit(*data)
    found = negative_log_likelihood(likeliest(*data), *data)[0]
    assert found <= -model.log_marginal_likelihood_value_ + 0.5


def test_leaving_one_out_is_predicting_it_from_the_others(data, theta):
    points, values = data
    kernel = kernel_of(theta)
    found = leave_one_out(kernel, points, values)
    for place in (0, 7, 39):
        rest = np.delete(np.arange(40), place)
        posterior = Posterior(kernel, points[place : place + 1])
        posterior.learn(points[rest])
        assert found[place] == pytest.approx(posterior.predict(values[rest])[0][0], abs=1e-8)
