"""Interleaved timing: candidate and baseline take turns in one process, so that what disturbs one disturbs both.

Method: both warm up; then short rounds of a few inferences alternate in the orders B A A B and A B B A by turns, so
that a steady drift, and what a change of models costs, cancel. Each such group gives one ratio, candidate over
baseline; the reported ratio is the median over groups with a bootstrap interval. A group counts as disturbed when the
process did not have its core (CPU time below wall time) or when the two rounds of one session differ. Disturbed groups
are repeated until there are enough clean ones or a cap is reached; then, or if most were disturbed, all groups count
and the timing is ``noisy``.

Rounds are no shorter than that because a model is slow at first after another one has run: with turns after every
inference the noise looks smaller, but a fast candidate comes out 10% slower than when it runs alone.

Two sessions of one file are not equally fast either (``benchmarks/timing_aa``: the one opened first is the slower
one, by about 0.5%): it depends on where their memory lies, and taking turns does not reveal it. The interval is widened
by as much.
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

#: A group is disturbed when CPU time is a smaller share of wall time than this (with several threads it exceeds 1).
MIN_CPU_SHARE = 0.9
#: A group is disturbed when two rounds of one session differ by more than this factor.
MAX_DRIFT = 1.15
#: Relative standard deviation of a session's speed that comes from where its memory lies.
PLACEMENT = 0.004
BOOTSTRAP_DRAWS = 1000
#: A comparison is never planned shorter than this, in seconds and in clean groups.
LEAST_SECONDS, LEAST_GROUPS = 0.2, 3


@dataclass(frozen=True)
class Clock:
    """Sources of wall and CPU time in seconds; tests give their own."""

    wall: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time


@dataclass(frozen=True)
class TimingPlan:
    """The length of a measurement.

    Attributes:
        min_seconds: measuring time of one comparison, over both sessions.
        max_seconds: cap when disturbed groups are repeated (but at least twice ``min_groups`` are tried).
        min_groups: clean groups wanted at least.
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

    def within(self, seconds: float, inference_seconds: float = 0.0) -> TimingPlan:
        """The same in at most ``seconds`` a comparison, with fewer groups where inferences take long."""
        seconds = max(seconds, LEAST_SECONDS)
        # Twice as many groups as are wanted may be tried, each of four rounds.
        affordable = int(seconds / (8 * max(self.round_seconds, inference_seconds)))
        return replace(
            self,
            min_seconds=min(self.min_seconds, seconds),
            max_seconds=min(self.max_seconds, seconds),
            min_groups=max(LEAST_GROUPS, min(self.min_groups, affordable)),
        )


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
        tails: whether single inferences were timed; else the percentiles are of rounds' means, and say nothing.
        noisy: not enough clean groups within the time cap, or most were disturbed; all groups were used.
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
    tails: bool = True

    @property
    def speedup(self) -> float:
        """Baseline / candidate."""
        return 1.0 / self.ratio


@dataclass
class Group:
    """Latencies in seconds of two rounds of each session, in the order of time, and the ratio of CPU to wall time.

    Where a clock is too coarse for single inferences (``means``), each is its round's mean.
    """

    candidate: list[float] = field(default_factory=list)
    baseline_first: list[float] = field(default_factory=list)
    baseline_last: list[float] = field(default_factory=list)
    cpu_share: float = 1.0
    means: bool = False

    @property
    def baseline(self) -> list[float]:
        """The baseline's latencies of both rounds."""
        return [*self.baseline_first, *self.baseline_last]

    @property
    def ratio(self) -> float:
        """Candidate over baseline, each the geometric mean of the medians of its two rounds."""
        return float(np.exp(np.log(self._medians).reshape(2, 2).mean(1) @ (1, -1)))

    @property
    def drift(self) -> float:
        """Factor between the two rounds of one session, at least 1; of the session whose rounds differ more."""
        return float(np.exp(np.abs(np.diff(np.log(self._medians).reshape(2, 2))).max()))

    @property
    def _medians(self) -> list[float]:
        """Median latencies of the candidate's two rounds and of the baseline's."""
        half = max(1, len(self.candidate) // 2)
        rounds = (self.candidate[:half], self.candidate[-half:], self.baseline_first, self.baseline_last)
        return [float(np.median(one)) for one in rounds]

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
            rounds = _Rounds(sessions[name], repeats[name], sessions[baseline], repeats[baseline], batch, clock)
            groups[name].append(rounds.group(baseline_outside=len(groups[name]) % 2 == 0))
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
    """Run the session until it is warm; return the number of inferences that fill a round."""
    latency = math.inf
    for _ in range(max(1, plan.warmup)):
        start = clock.wall()
        session.run(batch)
        latency = min(latency, clock.wall() - start)
    return max(1, min(100, round(plan.round_seconds / max(latency, 1e-6))))


@dataclass(frozen=True)
class _Rounds:
    """Two warm sessions, and how many inferences a round of each holds."""

    candidate: Session
    candidate_runs: int
    baseline: Session
    baseline_runs: int
    batch: np.ndarray
    clock: Clock

    def group(self, baseline_outside: bool) -> Group:
        """Baseline, candidate, candidate, baseline; or the other way round."""
        group = Group()
        wall, cpu = self.clock.wall(), self.clock.cpu()
        if baseline_outside:
            group.baseline_first = self._baseline()
            group.candidate = self._candidate() + self._candidate()
            group.baseline_last = self._baseline()
        else:
            group.candidate = self._candidate()
            group.baseline_first, group.baseline_last = self._baseline(), self._baseline()
            group.candidate += self._candidate()
        group.cpu_share = (self.clock.cpu() - cpu) / max(self.clock.wall() - wall, 1e-9)
        return group

    def _candidate(self) -> list[float]:
        return _round(self.candidate, self.batch, self.candidate_runs, self.clock)

    def _baseline(self) -> list[float]:
        return _round(self.baseline, self.batch, self.baseline_runs, self.clock)


def _round(session: Session, batch: np.ndarray, runs: int, clock: Clock) -> list[float]:
    latencies = []
    for _ in range(runs):
        start = clock.wall()
        session.run(batch)
        latencies.append(clock.wall() - start)
    return latencies


def summarise(groups: list[Group], plan: TimingPlan, batch: int = 1) -> Timing:
    """Figures from groups: the clean ones if they are enough and most, otherwise all of them and ``noisy``."""
    clean = [group for group in groups if group.is_clean]
    noisy = len(clean) < max(plan.min_groups, len(groups) / 2)
    used = groups if noisy else clean
    ratios = np.array([group.ratio for group in used])
    ratio, (ratio_low, ratio_high) = float(np.median(ratios)), median_interval(ratios)
    candidate = 1e3 * np.concatenate([group.candidate for group in used])
    baseline = 1e3 * np.concatenate([group.baseline for group in used])
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
        ratio=ratio,
        ratio_low=ratio / _widened(ratio / ratio_low),
        ratio_high=ratio * _widened(ratio_high / ratio),
        samples=len(candidate),
        groups=len(used),
        noisy=noisy,
        batch=batch,
        tails=not any(group.means for group in used),
    )


def _widened(factor: float) -> float:
    """One side of an interval, as a factor, with the effect of memory placement added."""
    return math.exp(math.hypot(math.log(factor), 1.96 * PLACEMENT))


def median_interval(values: np.ndarray) -> tuple[float, float]:
    """95% bootstrap interval (percentiles) of the median of ``values`` ``[N]``; seeded, so the same every time."""
    draws = np.random.default_rng(0).integers(len(values), size=(BOOTSTRAP_DRAWS, len(values)))
    low, high = np.quantile(np.median(values[draws], axis=1), (0.025, 0.975))
    return float(low), float(high)
