"""Gaussian process regression, held against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import check_grad

from sousvit.search.proposers.surrogate import Posterior, kernel_of, leave_one_out, likeliest, negative_log_likelihood


@pytest.fixture
def data():
    random = np.random.default_rng(0)
    points = random.uniform(0, 1, (40, 5))
    points -= points.mean(0)
    values = np.sin(3 * points[:, 0]) + points[:, 1] * points[:, 2] + random.normal(0, 0.02, 40)
    return points, (values - values.mean()) / values.std()


@pytest.fixture
def theta():
    return np.log(np.array([1.7, 0.3, 0.8, 1.2, 5.0, 2.0, 4e-3, 0.2]))


def scales_of(theta):
    return np.exp(theta[1:-2])


def reference(theta):
    """On points in units of the scales."""
    from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel

    signal, noise, trend = np.exp(theta[0]), np.exp(theta[-2]), np.exp(theta[-1])
    matern = ConstantKernel(signal) * Matern(np.ones(5), nu=2.5)
    return matern + ConstantKernel(trend) * DotProduct(1e-5, sigma_0_bounds="fixed") + WhiteKernel(noise)


def test_the_kernel_is_sklearns(data, theta):
    points, _ = data
    other = points[:7] + 0.1
    expected = reference(theta).k1(points / scales_of(theta), other / scales_of(theta))
    assert kernel_of(theta)(points, other) == pytest.approx(expected, abs=1e-9)
    assert kernel_of(theta).variance(points) == pytest.approx(np.diag(kernel_of(theta)(points, points)))


def test_the_likelihood_is_sklearns_and_its_gradient_true(data, theta):
    from sklearn.gaussian_process import GaussianProcessRegressor

    points, values = data
    model = GaussianProcessRegressor(reference(theta), optimizer=None, alpha=0.0).fit(points / scales_of(theta), values)
    value, _ = negative_log_likelihood(theta, *data)
    assert value == pytest.approx(-model.log_marginal_likelihood(model.kernel_.theta))
    value_of, slope_of = (lambda t, part=part: negative_log_likelihood(t, *data)[part] for part in (0, 1))
    found = check_grad(value_of, slope_of, theta)
    assert found < 1e-3


def test_what_it_predicts_is_what_sklearn_predicts(data, theta):
    from sklearn.gaussian_process import GaussianProcessRegressor

    points, values = data
    asked = np.random.default_rng(1).uniform(0, 1, (11, 5))
    asked -= asked.mean(0)
    model = GaussianProcessRegressor(reference(theta), optimizer=None, alpha=0.0).fit(points / scales_of(theta), values)
    mean, std = model.predict(asked / scales_of(theta), return_std=True)
    posterior = Posterior(kernel_of(theta), asked)
    for count in (5, 6, 40):
        posterior.learn(points[:count])
    found_mean, found_std = posterior.predict(values)
    assert found_mean == pytest.approx(mean, abs=1e-6)
    noise = np.exp(theta[-2])
    assert found_std == pytest.approx(np.sqrt(std**2 - noise), abs=1e-6)


def test_a_trend_carries_over_to_where_there_are_no_points(data):
    points, _ = data
    values = points @ np.array([3.0, 1.0, 0.0, 0.0, 0.0])
    standard = (values - values.mean()) / values.std()
    far = np.array([[1.5, 1.0, 0.0, 0.0, 0.0]])
    posterior = Posterior(kernel_of(likeliest(points, standard)), far)
    posterior.learn(points)
    expected = (5.5 - values.mean()) / values.std()
    assert posterior.predict(standard)[0][0] == pytest.approx(expected, rel=0.15)


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
