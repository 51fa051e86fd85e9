from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sousvit.objectives.runtimes.runtime import Session, open_session
from sousvit.objectives.timing import Clock, Group, TimingPlan, compare, measure_many, median_interval, summarise

SHAPE = (1, 3, 16, 16)
PLAN = TimingPlan(min_seconds=1.0, max_seconds=4.0, min_groups=9, round_seconds=0.02, warmup=2)


class FakeTime:
    """Wall and CPU clocks that only sessions move; ``stolen`` is wall time without CPU time."""

    def __init__(self) -> None:
        self.wall, self.cpu = 0.0, 0.0

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.wall, lambda: self.cpu)

    def spend(self, seconds: float, stolen: float = 0.0) -> None:
        self.wall += seconds + stolen
        self.cpu += seconds


class FakeSession(Session):
    def __init__(self, time: FakeTime, seconds: float, noise: float = 0.02, seed: int = 0) -> None:
        self.time, self.seconds, self.noise = time, seconds, noise
        self.rng, self.runs = np.random.default_rng(seed), 0
        self.steal_every = 0

    def run(self, batch: np.ndarray) -> np.ndarray:
        self.runs += 1
        stolen = self.seconds if self.steal_every and self.runs % self.steal_every == 0 else 0.0
        self.time.spend(self.seconds * float(self.rng.lognormal(0, self.noise)), stolen)
        return np.zeros((len(batch), 2), np.float32)


def test_the_ratio_is_found_with_its_interval() -> None:
    time = FakeTime()
    timing = compare(FakeSession(time, 0.001, seed=1), FakeSession(time, 0.002, seed=2), SHAPE, PLAN, time.clock)
    assert timing.ratio == pytest.approx(0.5, rel=0.02)
    assert timing.ratio_low <= timing.ratio <= timing.ratio_high
    assert timing.ratio_high - timing.ratio_low < 0.02
    assert timing.p50_ms == pytest.approx(1.0, rel=0.02) and timing.baseline_p50_ms == pytest.approx(2.0, rel=0.02)
    assert timing.p50_ms <= timing.p95_ms and timing.p50_low_ms <= timing.p50_ms <= timing.p50_high_ms
    assert timing.speedup == pytest.approx(2.0, rel=0.02)
    assert not timing.noisy and timing.groups >= 9 and timing.samples >= timing.groups


def test_it_takes_about_the_time_it_was_given() -> None:
    time = FakeTime()
    compare(FakeSession(time, 0.002), FakeSession(time, 0.002), SHAPE, PLAN, time.clock)
    assert 1.0 <= time.wall < 1.3


def test_rare_preemption_is_sorted_out() -> None:
    time = FakeTime()
    disturbed = FakeSession(time, 0.002)
    disturbed.steal_every = 97
    timing = compare(disturbed, FakeSession(time, 0.002), SHAPE, PLAN, time.clock)
    assert not timing.noisy and timing.ratio == pytest.approx(1.0, rel=0.02)
    assert timing.p95_ms < 2.2


def test_steady_preemption_is_flagged_and_ends() -> None:
    time = FakeTime()
    disturbed = FakeSession(time, 0.002)
    disturbed.steal_every = 3
    timing = compare(disturbed, FakeSession(time, 0.002), SHAPE, PLAN, time.clock)
    assert timing.noisy
    assert time.wall < 5.0


def test_a_drifting_baseline_is_flagged() -> None:
    time = FakeTime()
    timing = compare(FakeSession(time, 0.002), FakeSession(time, 0.002, noise=0.8), SHAPE, PLAN, time.clock)
    assert timing.noisy


def test_a_slow_model_still_gets_its_groups() -> None:
    time = FakeTime()
    timing = compare(FakeSession(time, 1.0), FakeSession(time, 1.0, seed=1), SHAPE, PLAN, time.clock)
    assert timing.groups == PLAN.min_groups and not timing.noisy


@pytest.mark.parametrize("outside", [True, False])
def test_a_steady_drift_cancels_within_a_group(outside: bool) -> None:
    outer, inner = [1.0, 1.3], [1.1, 1.3 / 1.1]
    candidate, (first, last) = (inner, outer) if outside else (outer, inner)
    group = Group(candidate, [first], [last])
    assert group.ratio == pytest.approx(1.0)
    assert group.drift == pytest.approx(1.3) and not group.is_clean


def test_no_interval_is_narrower_than_what_memory_does() -> None:
    timing = summarise([Group([1.0, 1.0], [2.0], [2.0]) for _ in range(40)], PLAN)
    assert timing.ratio == pytest.approx(0.5)
    assert timing.ratio / timing.ratio_low == pytest.approx(timing.ratio_high / timing.ratio)
    assert timing.ratio_high / timing.ratio > 1.007


def test_many_sessions_share_one_baseline() -> None:
    time = FakeTime()
    sessions = {name: FakeSession(time, seconds) for name, seconds in (("base", 0.004), ("a", 0.002), ("b", 0.001))}
    timings = measure_many(sessions, "base", SHAPE, PLAN, time.clock, with_baseline=True)
    assert timings["a"].ratio == pytest.approx(0.5, rel=0.02)
    assert timings["b"].ratio == pytest.approx(0.25, rel=0.02)
    assert timings["base"].ratio == pytest.approx(1.0, rel=0.02)


def test_the_interval_covers_the_true_ratio_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        low, high = median_interval(rng.lognormal(0, 0.05, 15))
        covered += low <= 1.0 <= high
    assert covered / 200 > 0.88


def test_few_clean_groups_use_all_and_say_so() -> None:
    groups = [Group([1.0], [1.0], [1.0], cpu_share=0.2) for _ in range(3)]
    timing = summarise(groups, PLAN)
    assert timing.noisy and timing.groups == 3


def test_a_real_pair_gives_positive_ordered_values(subject: Any) -> None:
    with open_session(subject.artifact, 1, 1) as session:
        plan = TimingPlan(min_seconds=0.05, max_seconds=0.1, min_groups=3, round_seconds=0.002)
        timing = compare(session, session, SHAPE, plan)
    assert 0 < timing.p50_ms <= timing.p95_ms
    assert 0 < timing.ratio_low <= timing.ratio <= timing.ratio_high


def test_a_plan_follows_the_measuring_time_asked_for() -> None:
    short, usual, long = (TimingPlan.of(seconds) for seconds in (0.12, 1.2, 12.0))
    assert usual == TimingPlan()
    assert short.min_groups == long.min_groups and short.round_seconds < usual.round_seconds == long.round_seconds
    assert [plan.careful().min_seconds / plan.min_seconds for plan in (short, long)] == pytest.approx([10 / 3] * 2)
    assert long.max_seconds == 10 * usual.max_seconds
