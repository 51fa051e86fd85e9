"""Goals: limits, directions, preferences and the base in one object."""

from __future__ import annotations

import math

import pytest

from sousvit.objectives.objective import Measurement
from sousvit.search.goals import Goals
from sousvit.search.limits import parse_limits

WEIGHTS = {"latency": 1.0, "size": 1.0}
RIVAL = {"latency": 2.0, "size": 1.0}
LIMITS = parse_limits({"accuracy_drop": 0.02, "latency_ratio": 0.5})
GOALS = Goals(LIMITS, WEIGHTS, {"latency": Measurement(10.0), "size": Measurement(4.0)})


def test_limits_hold_only_where_all_were_measured():
    assert GOALS.holds({"accuracy_drop": Measurement(0.01), "latency_ratio": Measurement(0.5)})
    assert not GOALS.holds({"accuracy_drop": Measurement(0.01)})


def test_violations_name_every_limit_that_does_not_hold():
    values = {"latency_ratio": Measurement(0.6)}
    assert GOALS.violations(values) == {"accuracy_drop": math.inf, "latency_ratio": pytest.approx(0.2)}
    assert list(GOALS.violations(values, measured_only=True)) == ["latency_ratio"]
    assert GOALS.miss(values) == math.inf
    assert GOALS.explain(values) == ["accuracy_drop was not measured, limit <= 0.02", "latency_ratio 0.6, limit <= 0.5"]
    assert GOALS.explain(values, measured_only=True) == ["latency_ratio 0.6, limit <= 0.5"]


def test_without_limits_everything_holds_by_no_margin():
    assert Goals().holds({}) and Goals().miss({}) == 0.0 and Goals().explain({}) == []


def test_a_figure_may_hold_a_limit_by_the_better_end_of_its_interval():
    sure = Goals(parse_limits({"accuracy_drop": 0.02}, confidence=0.975))
    values = {"accuracy_drop": Measurement(0.025, 0.015, 0.035)}
    assert sure.may_hold(values) and not sure.holds(values)
    assert not sure.may_hold({"accuracy_drop": Measurement(0.04, 0.03, 0.05)}) and not sure.may_hold({})


def test_a_confidence_of_one_half_judges_the_figure_itself():
    values = {"accuracy_drop": Measurement(0.015, 0.0, 0.03)}
    goals = Goals(parse_limits({"accuracy_drop": 0.02}, confidence=0.975))
    assert not goals.holds(values) and goals.at_confidence(0.5).holds(values)


def test_some_limits_alone():
    assert [limit.name for limit in GOALS.only(lambda name: name == "latency_ratio").limits] == ["latency_ratio"]


def test_directions_are_the_objectives_own_and_points_are_less_is_better():
    goals = Goals(weights={"latency": 1.0, "accuracy": 1.0})
    assert goals.directions == {"latency": "minimize", "accuracy": "maximize"}
    values = {"latency": Measurement(2.0), "accuracy": Measurement(0.9)}
    assert goals.point(values) == (2.0, -0.9) and goals.figures(values) == {"latency": 2.0, "accuracy": 0.9}
    assert math.isnan(goals.point({})[0])


def test_the_score_is_the_weighted_log_gain_over_the_base():
    values = {"latency": Measurement(5.0), "size": Measurement(1.0)}
    assert GOALS.score(values) == pytest.approx(math.log(2) + math.log(4))
    assert GOALS.score({"latency": Measurement(5.0)}) == -math.inf


@pytest.mark.parametrize(
    ("latency", "size", "expected"),
    [
        (Measurement(3.0), Measurement(1.5), True),
        (Measurement(1.5), Measurement(1.5), False),
        (Measurement(3.0), Measurement(1.0), False),
        (Measurement(2.1, 1.9, 2.3), Measurement(1.5), False),
        (Measurement(2.3, 2.1, 2.5), Measurement(1.5), True),
    ],
)
def test_a_candidate_surely_worse_than_a_finished_recipe_is_dominated(latency, size, expected):
    assert Goals(weights=WEIGHTS).dominates(RIVAL, {"latency": latency, "size": size}) is expected


def test_an_objective_that_training_decides_settles_nothing():
    values = {"latency": Measurement(9.0), "size": Measurement(9.0)}
    assert not Goals(weights={**WEIGHTS, "accuracy": 1.0}).dominates({**RIVAL, "accuracy": 0.9}, values)


def test_more_is_better_where_the_objective_says_so():
    goals = Goals(weights={"throughput": 1.0})
    assert goals.dominates({"throughput": 12.0}, {"throughput": Measurement(10.0, 9.0, 11.0)})
    assert not goals.dominates({"throughput": 12.0}, {"throughput": Measurement(10.0, 9.0, 12.5)})
