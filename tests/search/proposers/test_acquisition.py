"""Expected hypervolume improvement against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna._hypervolume import compute_hypervolume
from scipy.stats import norm

from sousvit.search.proposers.acquisition import EXACT_COSTS, Array, Improvement, probability_above


def hypervolume(values, costs, reference) -> float:
    """By Optuna's own computation, all objectives minimised."""
    points = np.column_stack([-values, costs])
    ceiling = np.concatenate([[-reference[0]], reference[1:]])
    inside = points[(points < ceiling).all(1)]
    return float(compute_hypervolume(inside, ceiling)) if len(inside) else 0.0


def brute_force(mean, std, cost, known, known_costs, reference) -> float:
    """The expectation over quantiles of the normal distribution."""
    before = hypervolume(known, known_costs, reference)
    draws = norm.ppf((np.arange(400) + 0.5) / 400, mean, std)
    with_one = [
        hypervolume(np.append(known, draw), np.vstack([known_costs, cost]), reference) - before for draw in draws
    ]
    return float(np.mean(with_one))


@pytest.mark.parametrize("num_costs", [0, 1, 2, 3, 4])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 6))
def test_it_is_the_mean_of_what_draws_would_add(num_costs, seed, size):
    random = np.random.default_rng(seed)
    known, known_costs = random.uniform(0.2, 0.9, size), random.uniform(0, 1.2, (size, num_costs))
    mean, std = random.uniform(0.1, 1.0, 3), random.uniform(0.01, 0.3, 3)
    costs = random.uniform(0, 1.1, (3, num_costs))
    reference = np.array([0.1, *[1.0] * num_costs])
    found = Improvement(known, known_costs, reference, costs.min(0)).expected(mean, std, costs)
    expected = [brute_force(*one, known, known_costs, reference) for one in zip(mean, std, costs, strict=True)]
    assert found == pytest.approx(expected, abs=3e-3 if num_costs <= EXACT_COSTS else 2e-2)


@pytest.mark.parametrize("num_costs", [0, 1, 2, 3])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(0, 40))
def test_the_best_is_the_one_that_adds_most(num_costs, seed, size):
    random = np.random.default_rng(seed)
    known, known_costs = random.uniform(0.2, 0.9, size), random.uniform(0, 1.2, (size, num_costs))
    mean, std = random.uniform(0.1, 0.8, 900), random.uniform(0.01, 0.1, 900)
    costs, chance = random.uniform(0, 1.1, (900, num_costs)), random.choice([0.0, 0.5, 1.0], 900)
    improvement = Improvement(known, known_costs, np.array([0.1, *[1.0] * num_costs]), costs.min(0))
    gains = chance * improvement.expected(mean, std, costs)
    assert improvement.best(mean, std, costs, chance) == (gains.argmax(), gains.max())


def one_against_nothing(cost: float, std: float) -> Array:
    improvement = Improvement(np.zeros(0), np.zeros((0, 1)), np.array([0.3, 1.0]), np.zeros(1))
    return improvement.expected(np.array([0.8]), np.array([std]), np.array([[cost]]))


def test_without_anything_known_the_whole_box_can_be_won():
    assert one_against_nothing(0.25, 1e-9) == pytest.approx([0.5 * 0.75])


def test_too_costly_candidates_add_nothing():
    assert one_against_nothing(1.5, 0.1) == pytest.approx([0.0])


def test_probabilities_are_those_of_the_normal_distribution():
    assert probability_above(np.array([0.0, 1.0]), np.array([1.0, 1.0]), 0.0) == pytest.approx([0.5, norm.cdf(1.0)])
