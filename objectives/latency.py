"""Latency on the target, timed in turns with the base (:mod:`sousvit.objectives.timing`).

A candidate's milliseconds are its interleaved ratio times the base's milliseconds, taken once a run: the clock of a
machine changes within hours, and trials timed at different speeds would not compare.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from sousvit.objectives.objective import Direction, Measurement, Objective, Stage, Subject

if TYPE_CHECKING:
    from sousvit.objectives.timing import Timing


#: Beginnings of the names of objectives that single inferences tell, and no means of many.
TAILS = ("latency_p95", "latency_p99")


class Latency(Objective):
    """Median milliseconds of one inference of the target's batch."""

    name: ClassVar[str] = "latency"
    unit: ClassVar[str] = "ms"
    direction: ClassVar[Direction] = "minimize"
    stage: ClassVar[Stage] = Stage.ARTIFACT
    summary: ClassVar[str] = "median latency of a batch on the target"
    per_target: ClassVar[bool] = True

    def measure(self, subject: Subject) -> Measurement:
        timing = subject.timing
        if subject.base is subject:
            return Measurement(timing.p50_ms, timing.p50_low_ms, timing.p50_high_ms)
        base = subject.base.timing.p50_ms
        return Measurement(timing.ratio * base, timing.ratio_low * base, timing.ratio_high * base)

    def measure_ratio(self, subject: Subject) -> Measurement:
        """The interleaved ratio: far steadier than a quotient of two medians."""
        timing = subject.timing
        return Measurement(timing.ratio, timing.ratio_low, timing.ratio_high)


class _Tail(Objective):
    """A high percentile of the milliseconds of one inference: its ratio to the base, times the base's own."""

    unit: ClassVar[str] = "ms"
    direction: ClassVar[Direction] = "minimize"
    stage: ClassVar[Stage] = Stage.ARTIFACT
    per_target: ClassVar[bool] = True

    @abstractmethod
    def _of(self, timing: Timing) -> tuple[float, float]:
        """The percentile of the candidate and of the baseline, in milliseconds."""

    def measure(self, subject: Subject) -> Measurement:
        own, baseline = self._of(subject.timing)
        if subject.base is subject:
            return Measurement(own)
        return Measurement(own / baseline * self._of(subject.base.timing)[0])

    def measure_ratio(self, subject: Subject) -> Measurement:
        """Against the base's percentile of the same timing."""
        own, baseline = self._of(subject.timing)
        return Measurement(own / baseline)


class LatencyP95(_Tail):
    """95th percentile."""

    name: ClassVar[str] = "latency_p95"
    summary: ClassVar[str] = "95th percentile of the latency of a batch on the target"

    def _of(self, timing: Timing) -> tuple[float, float]:
        return timing.p95_ms, timing.baseline_p95_ms


class LatencyP99(_Tail):
    """99th percentile; coarse where the artifact is timed for a second only, see ``search.measure_time``."""

    name: ClassVar[str] = "latency_p99"
    summary: ClassVar[str] = "99th percentile of the latency of a batch on the target"

    def _of(self, timing: Timing) -> tuple[float, float]:
        return timing.p99_ms, timing.baseline_p99_ms


class Throughput(Objective):
    """Images a second at the target's batch, one batch after the other."""

    name: ClassVar[str] = "throughput"
    unit: ClassVar[str] = "images/s"
    direction: ClassVar[Direction] = "maximize"
    stage: ClassVar[Stage] = Stage.ARTIFACT
    summary: ClassVar[str] = "images a second at the target's batch"
    per_target: ClassVar[bool] = True

    def measure(self, subject: Subject) -> Measurement:
        latency = Latency().measure(subject)
        ends = [None if end is None else self._rate(end, subject) for end in (latency.high, latency.low)]
        return Measurement(self._rate(latency.value, subject), *ends)

    def measure_ratio(self, subject: Subject) -> Measurement:
        """The inverse of the interleaved ratio of latencies."""
        timing = subject.timing
        return Measurement(1 / timing.ratio, 1 / timing.ratio_high, 1 / timing.ratio_low)

    def _rate(self, milliseconds: float, subject: Subject) -> float:
        return 1e3 * subject.timing.batch / milliseconds
