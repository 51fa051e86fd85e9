"""Interleaved timing: candidate and baseline take turns in one process, so that what disturbs one disturbs both.

Method: both warm up; then short rounds of a few inferences alternate in the order A B B A (baseline first and
last), so that a steady drift cancels. Each such group gives one ratio, candidate over baseline; the reported
ratio is the median over groups with a bootstrap interval. A group counts as disturbed when the process did not
have its core (CPU time below wall time) or when the baseline's two rounds differ. Disturbed groups are repeated
until there are enough clean ones or a cap is reached; then all groups count and the timing is ``noisy``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sousvit.objectives.runtimes.runtime import Session

#: A group is disturbed when CPU time was a smaller share of wall time than this (several threads use more than 1),
MIN_CPU_SHARE = 0.9
#: or when the baseline's two rounds differ by more than this factor.
MAX_DRIFT = 1.15
BOOTSTRAP_DRAWS = 1000


@dataclass(frozen=True)
class Clock:
    """Wall and CPU time in seconds; tests give their own."""

    wall: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time


@dataclass(frozen=True)
class TimingPlan:
    """How long to measure.

    Attributes:
        min_seconds: measuring time of one comparison, over both sessions.
        max_seconds: cap when disturbed groups are repeated (but at least twice ``min_groups`` are tried).
        min_groups: clean A B B A groups wanted at least.
        round_seconds: length of one round; a round holds at least one inference.
        warmup: inferences of each session before the first round.
    """

    min_seconds: float = 1.2
    max_seconds: float = 6.0
    min_groups: int = 9
    round_seconds: float = 0.015
    warmup: int = 3

    @classmethod
    def of(cls, min_seconds: float) -> TimingPlan:
        """The default plan stretched or shrunk to ``min_seconds``; shorter rounds keep the number of groups."""
        default = cls()
        scale = min_seconds / default.min_seconds
        return cls(min_seconds, default.max_seconds * scale, round_seconds=default.round_seconds * min(1.0, scale))

    def careful(self) -> TimingPlan:
        """For final tables: 3.3 times as long, with 21 groups at least."""
        return replace(self, min_seconds=self.min_seconds / 0.3, max_seconds=self.max_seconds / 0.3, min_groups=21)


DEFAULT = TimingPlan()
#: For final tables.
CAREFUL = DEFAULT.careful()


@dataclass(frozen=True)
class Timing:
    """Latency of a candidate beside a baseline.

    Attributes:
        p50_ms, p95_ms, p99_ms: of the candidate's single inferences (a batch counts as one).
        p50_low_ms, p50_high_ms: 95% interval of the candidate's median.
        baseline_p50_ms, baseline_p95_ms, baseline_p99_ms: of the baseline.
        ratio: candidate / baseline, median over groups; below 1 is faster.
        ratio_low, ratio_high: its 95% interval.
        samples: inferences of the candidate behind the figures.
        groups: clean groups behind the ratio.
        noisy: not enough clean groups within the time cap; all groups were used.
        batch: images an inference.
    """

    p50_ms: float
    p95_ms: float
    p99_ms: float
    p50_low_ms: float
    p50_high_ms: float
    baseline_p50_ms: float
    baseline_p95_ms: float
    baseline_p99_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    samples: int
    groups: int
    noisy: bool
    batch: int = 1

    @property
    def speedup(self) -> float:
        """Baseline / candidate."""
        return 1.0 / self.ratio


@dataclass
class Group:
    """Latencies in seconds of one A B B A group, and CPU time over wall time while it ran."""

    candidate: list[float] = field(default_factory=list)
    baseline_first: list[float] = field(default_factory=list)
    baseline_last: list[float] = field(default_factory=list)
    cpu_share: float = 1.0

    @property
    def ratio(self) -> float:
        """Median of the candidate over the mean of the baseline's two medians."""
        return float(np.median(self.candidate)) / ((self._first + self._last) / 2)

    @property
    def drift(self) -> float:
        """Factor between the baseline's two rounds, at least 1."""
        return max(self._first, self._last) / min(self._first, self._last)

    @property
    def _first(self) -> float:
        return float(np.median(self.baseline_first))

    @property
    def _last(self) -> float:
        return float(np.median(self.baseline_last))

    @property
    def is_clean(self) -> bool:
        """Whether nothing seems to have disturbed the group."""
        return self.drift <= MAX_DRIFT and self.cpu_share >= MIN_CPU_SHARE


def compare(
    candidate: Session,
    baseline: Session,
    shape: tuple[int, int, int, int],
    plan: TimingPlan = DEFAULT,
    clock: Clock | None = None,
) -> Timing:
    """Time ``candidate`` beside ``baseline`` on one random batch of ``shape`` ``[B, C, H, W]``.

    Raises:
        TrialError: a session failed.
    """
    return measure_many({"candidate": candidate, "baseline": baseline}, "baseline", shape, plan, clock)["candidate"]


def measure_many(
    sessions: Mapping[str, Session],
    baseline: str,
    shape: tuple[int, int, int, int],
    plan: TimingPlan = DEFAULT,
    clock: Clock | None = None,
    with_baseline: bool = False,
) -> dict[str, Timing]:
    """Time several sessions in one go, each beside the baseline; the plan's times hold for each comparison.

    Args:
        with_baseline: time the baseline beside itself too: its ratio shows what the machine's noise alone does.

    Raises:
        TrialError: a session failed.
    """
    groups = measure_groups(sessions, baseline, shape, plan, clock, with_baseline)
    return {name: summarise(done, plan, shape[0]) for name, done in groups.items()}


def measure_groups(
    sessions: Mapping[str, Session],
    baseline: str,
    shape: tuple[int, int, int, int],
    plan: TimingPlan = DEFAULT,
    clock: Clock | None = None,
    with_baseline: bool = False,
) -> dict[str, list[Group]]:
    """The raw latencies behind :func:`measure_many`, which takes the same arguments."""
    clock = clock or Clock()
    batch = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    repeats = {name: _warm_up(session, batch, plan, clock) for name, session in sessions.items()}
    names = [name for name in sessions if name != baseline]
    if with_baseline or not names:
        names.append(baseline)
    groups: dict[str, list[Group]] = {name: [] for name in names}
    started = clock.wall()
    while pending := _pending(groups, plan, clock.wall() - started):
        for name in pending:
            groups[name].append(
                _group(sessions[name], sessions[baseline], batch, repeats[name], repeats[baseline], clock)
            )
    return groups


def _pending(groups: Mapping[str, list[Group]], plan: TimingPlan, elapsed: float) -> list[str]:
    """The sessions that need more groups; all go on together until the minimum time is over."""
    if elapsed < plan.min_seconds * len(groups):
        return list(groups)
    capped = elapsed > plan.max_seconds * len(groups)
    return [
        name
        for name, done in groups.items()
        if sum(group.is_clean for group in done) < plan.min_groups and not (capped and len(done) >= 2 * plan.min_groups)
    ]


def _warm_up(session: Session, batch: np.ndarray, plan: TimingPlan, clock: Clock) -> int:
    """Run the session until it is warm; the inferences that fill a round."""
    latency = math.inf
    for _ in range(max(1, plan.warmup)):
        start = clock.wall()
        session.run(batch)
        latency = min(latency, clock.wall() - start)
    return max(1, min(100, round(plan.round_seconds / max(latency, 1e-6))))


def _group(
    candidate: Session, baseline: Session, batch: np.ndarray, candidate_runs: int, baseline_runs: int, clock: Clock
) -> Group:
    """Baseline, candidate, candidate, baseline."""
    wall, cpu = clock.wall(), clock.cpu()
    first = _round(baseline, batch, baseline_runs, clock)
    middle = _round(candidate, batch, candidate_runs, clock) + _round(candidate, batch, candidate_runs, clock)
    last = _round(baseline, batch, baseline_runs, clock)
    share = (clock.cpu() - cpu) / max(clock.wall() - wall, 1e-9)
    return Group(middle, first, last, share)


def _round(session: Session, batch: np.ndarray, runs: int, clock: Clock) -> list[float]:
    latencies = []
    for _ in range(runs):
        start = clock.wall()
        session.run(batch)
        latencies.append(clock.wall() - start)
    return latencies


def summarise(groups: list[Group], plan: TimingPlan, batch: int = 1) -> Timing:
    """Figures from groups: the clean ones if there are enough, otherwise all of them and ``noisy``."""
    clean = [group for group in groups if group.is_clean]
    noisy = len(clean) < plan.min_groups
    used = groups if noisy else clean
    ratios = np.array([group.ratio for group in used])
    ratio_low, ratio_high = median_interval(ratios)
    candidate = 1e3 * np.concatenate([group.candidate for group in used])
    baseline = 1e3 * np.concatenate([[*group.baseline_first, *group.baseline_last] for group in used])
    medians = 1e3 * np.array([float(np.median(group.candidate)) for group in used])
    p50, p95, p99 = map(float, np.quantile(candidate, (0.5, 0.95, 0.99)))
    baseline_p50, baseline_p95, baseline_p99 = map(float, np.quantile(baseline, (0.5, 0.95, 0.99)))
    p50_low, p50_high = median_interval(medians)
    return Timing(
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        p50_low_ms=min(p50, p50_low),
        p50_high_ms=max(p50, p50_high),
        baseline_p50_ms=baseline_p50,
        baseline_p95_ms=baseline_p95,
        baseline_p99_ms=baseline_p99,
        ratio=float(np.median(ratios)),
        ratio_low=ratio_low,
        ratio_high=ratio_high,
        samples=len(candidate),
        groups=len(used),
        noisy=noisy,
        batch=batch,
    )


def median_interval(values: np.ndarray) -> tuple[float, float]:
    """95% bootstrap interval (percentiles) of the median of ``values`` ``[N]``; seeded, so the same every time."""
    draws = np.random.default_rng(0).integers(len(values), size=(BOOTSTRAP_DRAWS, len(values)))
    low, high = np.quantile(np.median(values[draws], axis=1), (0.025, 0.975))
    return float(low), float(high)
