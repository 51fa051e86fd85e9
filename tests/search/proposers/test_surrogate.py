"""The surrogate: how parameters are coded, and that it learns."""

from __future__ import annotations

import numpy as np
import pytest

from sousvit.search.proposers.surrogate import Encoder, Surrogate


def test_numbers_are_coded_by_rank_words_one_hot_and_what_is_not_asked_by_minus_one():
    encode = Encoder([{"keep": 0.25, "kind": "a", "on": True}, {"keep": 0.5, "kind": "b"}, {"keep": 1.0, "kind": "a"}])
    assert encode({"keep": 0.5, "kind": "b", "on": True}) == pytest.approx([0.5, 0.0, 1.0, 1.0])
    assert encode({"keep": 0.75, "kind": "a"}) == pytest.approx([0.75, 1.0, 0.0, -1.0])
    assert encode({"kind": "new"}) == pytest.approx([-1.0, 0.0, 0.0, -1.0])


@pytest.fixture
def points():
    random = np.random.default_rng(0)
    features = random.uniform(0, 1, (80, 4))
    return features, 0.9 - 0.3 * features[:, 0] ** 2 - 0.2 * features[:, 1] * features[:, 2]


def test_it_learns_a_smooth_function_and_is_sure_where_it_has_seen_points(points):
    features, values = points
    surrogate = Surrogate()
    surrogate.fit(features[:60], values[:60])
    mean, std = surrogate.predict(features[60:])
    assert np.abs(mean - values[60:]).max() < 0.02
    far = surrogate.predict(np.full((1, 4), 5.0))[1]
    assert (std < far).all() and (surrogate.predict(features[:60])[1] < 0.01).all()


def test_noise_is_not_counted_as_uncertainty_of_the_mean(points):
    features, values = points
    noisy = values + np.random.default_rng(1).normal(0, 0.05, len(values))
    surrogate = Surrogate()
    surrogate.fit(np.vstack([features] * 4), np.concatenate([noisy + 0.05 * sign for sign in (-1, 1, -1, 1)]))
    assert (surrogate.predict(features)[1] < 0.05).all()


def test_later_points_refine_it_without_a_new_search_of_hyperparameters(points):
    features, values = points
    surrogate = Surrogate()
    surrogate.fit(features[:75], values[:75])
    before = surrogate._hyperparameters
    surrogate.fit(features[:76], values[:76])
    assert surrogate._hyperparameters is before
    assert surrogate.predict(features[75:76])[1][0] < 0.01


def test_points_learned_one_by_one_say_the_same_as_all_at_once(points):
    features, values = points
    surrogate, asked = Surrogate(), features[60:]
    for count in (30, 31, 34):
        surrogate.fit(features[:count], values[:count])
        step_by_step = surrogate.predict(asked)
    at_once = surrogate.predict(asked.copy())
    assert np.allclose(step_by_step, at_once, atol=1e-9)


def test_what_is_asked_of_in_between_costs_the_candidates_nothing(points):
    features, values = points
    surrogate, candidates = Surrogate(), features[60:]
    surrogate.fit(features[:30], values[:30])
    surrogate.predict(candidates)
    kept = surrogate._posterior(candidates)
    for begin in (30, 40, 50):  # recipes on their way, others each time
        surrogate.predict(features[begin : begin + 2])
        surrogate.predict(candidates)
    assert surrogate._posterior(candidates) is kept and len(surrogate._posteriors) == 2
