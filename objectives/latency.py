"""Latency on the target, timed in turns with the base (:mod:`sousvit.objectives.timing`).

A candidate's milliseconds are its interleaved ratio times the base's milliseconds, taken once a run: the clock of a
machine changes within hours, and trials timed at different speeds would not compare.
"""

from __future__ import annotations

from typing import ClassVar

from sousvit.objectives.objective import OBJECTIVES, Direction, Measurement, Objective, Stage, Subject


class Latency(Objective):
    """Median milliseconds of one inference of the target's batch."""

    name: ClassVar[str] = "latency"
    unit: ClassVar[str] = "ms"
    direction: ClassVar[Direction] = "minimize"
    stage: ClassVar[Stage] = Stage.ARTIFACT
    summary: ClassVar[str] = "median latency of a batch on the target"

    def measure(self, subject: Subject) -> Measurement:
        """See :class:`Objective`."""
        timing = subject.timing
        if subject.base is subject:
            return Measurement(timing.p50_ms, timing.p50_low_ms, timing.p50_high_ms)
        base = subject.base.timing.p50_ms
        return Measurement(timing.ratio * base, timing.ratio_low * base, timing.ratio_high * base)

    def measure_ratio(self, subject: Subject) -> Measurement:
        """The interleaved ratio: far steadier than a quotient of two medians."""
        timing = subject.timing
        return Measurement(timing.ratio, timing.ratio_low, timing.ratio_high)


class LatencyP95(Objective):
    """95th percentile of the milliseconds of one inference."""

    name: ClassVar[str] = "latency_p95"
    unit: ClassVar[str] = "ms"
    direction: ClassVar[Direction] = "minimize"
    stage: ClassVar[Stage] = Stage.ARTIFACT
    summary: ClassVar[str] = "95th percentile of the latency of a batch on the target"

    def measure(self, subject: Subject) -> Measurement:
        """See :class:`Objective`."""
        timing = subject.timing
        if subject.base is subject:
            return Measurement(timing.p95_ms)
        return Measurement(timing.p95_ms / timing.baseline_p95_ms * subject.base.timing.p95_ms)

    def measure_ratio(self, subject: Subject) -> Measurement:
        """Against the base's 95th percentile of the same timing."""
        timing = subject.timing
        return Measurement(timing.p95_ms / timing.baseline_p95_ms)


OBJECTIVES.add(Latency.name, Latency())
OBJECTIVES.add(LatencyP95.name, LatencyP95())
