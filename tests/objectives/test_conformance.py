from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from sousvit.errors import TrialError, UserError
from sousvit.objectives.conformance import check_objective
from sousvit.objectives.objective import (
    OBJECTIVES,
    Direction,
    Measurement,
    Objective,
    Relative,
    Stage,
    get_objective,
    relative_objective,
)

EXAMPLES = Path(__file__).parents[2] / "examples"
BUILTIN = [
    "accuracy",
    "eer",
    "latency",
    "latency_p95",
    "latency_p99",
    "load_time",
    "macs",
    "memory",
    "params",
    "size",
    "throughput",
]


class Good(Objective):
    name: ClassVar[str] = "good"
    unit: ClassVar[str] = "points"
    direction: ClassVar[Direction] = "maximize"
    stage: ClassVar[Stage] = Stage.STRUCTURE
    summary: ClassVar[str] = "always one"

    def measure(self, subject: Any) -> Measurement:
        return Measurement(1.0, 0.5, 1.5)


@pytest.mark.parametrize("name", BUILTIN)
def test_builtin_objectives_keep_the_contract(name: str, subject: Any) -> None:
    check_objective(OBJECTIVES.get(name), subject)


def test_the_list_of_builtin_objectives_is_whole() -> None:
    assert set(BUILTIN) <= set(OBJECTIVES.names())


def test_the_example_plugin_passes(subject: Any, forget_plugins: None) -> None:
    objective = OBJECTIVES.load("worst_class.py:WorstClassAccuracy", EXAMPLES)
    assert OBJECTIVES.load("worst_class.py:WorstClassAccuracy", EXAMPLES) is objective
    check_objective(objective, subject)
    assert objective.measure(subject).value <= subject.evaluation.top1


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"name": "Bad Name"}, "snake_case"),
        ({"direction": "up"}, "direction"),
        ({"stage": 1}, "Stage"),
        ({"unit": ""}, "unit"),
        ({"summary": "two\nlines"}, "summary"),
        ({"measure": lambda self, subject: 1.0}, "Measurement"),
        ({"measure": lambda self, subject: Measurement(float("nan"))}, "finite"),
        ({"measure": lambda self, subject: Measurement(2.0, 0.0, 1.0)}, "interval"),
        ({"measure": lambda self, subject: Measurement(2.0, 0.0)}, "both ends"),
    ],
)
def test_an_objective_that_breaks_a_rule_is_told_which(attributes: dict[str, Any], words: str, subject: Any) -> None:
    with pytest.raises(AssertionError, match=words):
        check_objective(type("Broken", (Good,), attributes), subject)


def test_an_objective_is_checked_on_a_made_up_subject_without_being_registered() -> None:
    check_objective(Good)
    assert "good" not in OBJECTIVES
    with pytest.raises(AssertionError, match="must be given a subject"):
        check_objective(OBJECTIVES.get("map50"))


def test_an_unsteady_structure_objective_fails(subject: Any) -> None:
    class Unsteady(Good):
        count = 0

        def measure(self, subject: Any) -> Measurement:
            self.count += 1
            return Measurement(float(self.count))

    with pytest.raises(AssertionError, match="repeat itself"):
        check_objective(Unsteady(), subject)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("class Mine: pass", "derives from"),
        ("class Mine(Objective): name = 'mine'", "no unit"),
        ("class Mine(Good): direction = 'down'", "minimize or maximize"),
        ("class Mine(Good): name = 'size_ratio'", "relative forms"),
        ("class Mine(Good): name = 'accuracy'", "unique"),
        ("class Mine(Good): name = 'Mine'", "snake_case"),
        ("class Mine(Good):\n    def __init__(self, x): pass", "without arguments"),
        (
            "class Mine(Objective):\n    name, unit, direction, stage, summary = *'mu', 'minimize', Stage.TRAINED, 's'",
            "measure",
        ),
        ("def broken(:", "must import"),
    ],
)
def test_broken_plugins_are_refused_in_one_line(source: str, words: str, tmp_path: Path, forget_plugins: None) -> None:
    head = (
        "from sousvit.objectives.objective import *\n"
        "from sousvit.objectives.objective import Objective, Stage, Measurement\n"
        "class Good(Objective):\n"
        "    name, unit, direction, stage, summary = 'mine', 'u', 'minimize', Stage.TRAINED, 's'\n"
        "    def measure(self, subject): return Measurement(1.0)\n"
    )
    (tmp_path / "mine.py").write_text(head + source)
    with pytest.raises(UserError, match=words) as caught:
        OBJECTIVES.load("mine.py:Mine", tmp_path)
    assert "\n" not in str(caught.value)


def test_relative_forms(subject: Any) -> None:
    params = OBJECTIVES.get("params")
    value, base = params.measure(subject).value, params.measure(subject.base).value
    assert get_objective("params_ratio").measure(subject).value == pytest.approx(value / base)
    assert get_objective("params_drop").measure(subject).value == pytest.approx(base - value)
    assert get_objective("params_ratio").direction == "minimize"
    assert get_objective("accuracy_ratio").direction == "maximize"
    assert get_objective("accuracy_drop").direction == "minimize"


def test_latency_ratio_is_the_interleaved_one(subject: Any) -> None:
    measured = get_objective("latency_ratio").measure(subject)
    timing = subject.timing
    assert (measured.value, measured.low, measured.high) == (timing.ratio, timing.ratio_low, timing.ratio_high)


def test_milliseconds_follow_the_ratio_so_that_trials_timed_at_different_clock_speeds_compare(subject: Any) -> None:
    latency, timing, base = OBJECTIVES.get("latency"), subject.timing, subject.base.timing
    assert latency.measure(subject.base).value == base.p50_ms
    slower = dataclasses.replace(timing, p50_ms=2 * timing.p50_ms, baseline_p50_ms=2 * timing.baseline_p50_ms)
    for found in (subject, SimpleNamespace(timing=slower, base=subject.base)):
        assert latency.measure(found).value == pytest.approx(timing.ratio * base.p50_ms)


def test_accuracy_drop_is_paired(subject: Any) -> None:
    measured = get_objective("accuracy_drop").measure(subject)
    assert measured.value == pytest.approx(subject.base.evaluation.top1 - subject.evaluation.top1)
    assert measured.low is not None and measured.low <= measured.value


@pytest.mark.parametrize("name", ["ratio", "_ratio", "nothing_ratio", "accuracy", "size_drop_ratio"])
def test_other_names_are_no_relative_form(name: str) -> None:
    assert relative_objective(name) is None


def test_a_ratio_to_zero_is_a_failed_trial(subject: Any) -> None:
    zero = type("Zero", (Good,), {"measure": lambda self, subject: Measurement(0.0)})()
    with pytest.raises(TrialError, match="base"):
        Relative(zero, "ratio").measure(subject)
