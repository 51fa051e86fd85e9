"""Gains: costs by their ratio to the base, qualities by the share of the slack that their limit leaves."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from sousvit.objectives.objective import OBJECTIVES, Measurement, Objective, Stage
from sousvit.search.goals import Goals
from sousvit.search.limits import parse_limits
from sousvit.search.preference.gains import LEAST_SLACK, UNLIMITED_SLACK, log_gain

LOG2 = math.log(2)


def gain(name, figure, base, **limits):
    return log_gain(name, Measurement(base), parse_limits(limits))(figure)


@pytest.mark.parametrize(
    ("figure", "expected"),
    [(0.8, 0.0), (0.79, -LOG2), (0.795, math.log(0.75)), (0.81, math.log(1.5)), (0.78, -1 - LOG2)],
)
def test_a_quality_gains_by_the_share_of_its_slack(figure, expected):
    """At the base 1, at the bound a half, above the base more than 1; below the bound its log falls in a line."""
    assert gain("accuracy", figure, 0.8, accuracy_drop=0.01) == pytest.approx(expected)


@pytest.mark.parametrize("limits", [{"accuracy": 0.76}, {"accuracy_drop": 0.04}, {"accuracy_ratio": 0.95}])
@pytest.mark.parametrize(("name", "figure"), [("accuracy", 0.78), ("accuracy_drop", 0.02), ("accuracy_ratio", 0.975)])
def test_a_quality_and_its_limit_may_be_in_any_form(limits, name, figure):
    assert gain(name, figure, 0.8, **limits) == pytest.approx(math.log(0.75))


def test_of_several_limits_on_a_quality_the_tightest_counts():
    assert gain("accuracy", 0.78, 0.8, accuracy=0.6, accuracy_drop=0.02) == pytest.approx(-LOG2)


def test_a_limit_on_another_objective_is_not_a_quality_s():
    assert gain("accuracy", 0.8 - UNLIMITED_SLACK, 0.8, agreement=0.5) == pytest.approx(-LOG2)


@pytest.mark.parametrize("bound", [0.8, 0.81, 0.795])
def test_a_bound_at_the_base_or_beyond_it_leaves_the_least_slack(bound):
    assert gain("accuracy", 0.8, 0.8, accuracy=bound) == 0.0
    assert gain("accuracy", 0.8 + LEAST_SLACK, 0.8, accuracy=bound) == pytest.approx(math.log(1.5))


@pytest.mark.parametrize("limits", [{}, {"accuracy": 0.7}, {"accuracy": 0.8}, {"accuracy": 0.9}])
def test_more_accuracy_is_always_better_so_that_alone_it_is_its_own_order(limits):
    found = [gain("accuracy", figure / 100, 0.8, **limits) for figure in range(101)]
    assert all(less < more for less, more in pairwise(found))


def test_far_above_the_base_a_quality_gains_ever_less():
    """With a tight limit two points are twenty slacks: a gain of 2, and not of e to the 20."""
    assert math.exp(gain("accuracy", 0.82, 0.8, accuracy_drop=0.001)) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("name", "figure", "expected"),
    [
        ("latency", 2.5, math.log(4)),
        ("latency_ratio", 0.25, math.log(4)),
        ("latency_drop", 7.5, math.log(4)),
        ("throughput", 40.0, math.log(4)),
        ("throughput_ratio", 4.0, math.log(4)),
        ("eer", 5.0, LOG2),
    ],
)
def test_a_cost_gains_by_its_ratio_to_the_base_in_any_form(name, figure, expected):
    assert gain(name, figure, 10.0, latency=5) == pytest.approx(expected)


class Margin(Objective):
    name, unit, direction, stage, signed = "margin", "logits", "maximize", Stage.TRAINED, True
    summary = "a user's own that may be negative"

    def measure(self, subject):
        return Measurement(-1.0)


class Recall(Objective):
    name, unit, direction, stage = "recall", "share", "maximize", Stage.TRAINED
    summary = "a user's own quality"

    def measure(self, subject):
        return Measurement(0.5)


def test_a_users_own_objective_that_may_be_negative_has_no_ratio(forget_plugins):
    OBJECTIVES.register(Margin)
    assert gain("margin", -1.0, 2.0) == pytest.approx(-1.5), "in units of the base's figure"
    assert gain("margin", -1.0, 0.0) == pytest.approx(-1.0), "of a base of 0 in its own unit"
    assert gain("margin", -1.0, 2.0, margin=-1.0) == pytest.approx(-LOG2), "by the slack where a limit sets it"


def test_a_users_own_share_is_a_quality(forget_plugins):
    OBJECTIVES.register(Recall)
    assert gain("recall", 0.7, 0.8, recall=0.7) == pytest.approx(-LOG2)


def test_several_qualities_and_costs_are_added_by_their_weights():
    base = {"accuracy": Measurement(0.8), "agreement": Measurement(1.0), "latency": Measurement(10.0)}
    limits = parse_limits({"accuracy_drop": 0.02, "agreement": 0.9})
    goals = Goals(limits, {"accuracy": 1.0, "agreement": 2.0, "latency": 3.0}, base)
    values = {"accuracy": Measurement(0.79), "agreement": Measurement(0.9), "latency": Measurement(5.0)}
    assert goals.gains(values) == pytest.approx({"accuracy": math.log(0.75), "agreement": -LOG2, "latency": LOG2})
    assert goals.score(values) == pytest.approx(math.log(0.75) - 2 * LOG2 + 3 * LOG2)
    assert math.isnan(goals.gains({})["latency"]) and goals.score({}) == -math.inf


def test_an_agreement_whose_base_has_no_error_does_not_beat_everything():
    """Without data: the pruned model at 0.96 is faster and smaller than int8 alone, and the limit is 0.85."""
    base = {"agreement": Measurement(1.0), "latency": Measurement(7.0), "size": Measurement(3.9)}
    goals = Goals(parse_limits({"agreement": 0.85}), dict.fromkeys(base, 1.0), base)
    int8 = {"agreement": Measurement(0.995), "latency": Measurement(5.0), "size": Measurement(1.0)}
    pruned = {"agreement": Measurement(0.96), "latency": Measurement(7 / 2.2), "size": Measurement(0.65)}
    assert goals.score(int8) == pytest.approx(1.6806, abs=1e-4)
    assert goals.score(pruned) == pytest.approx(2.4372, abs=1e-4)
