"""What a limit of time says of how long artifacts are timed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sousvit.objectives.timing import TimingPlan

if TYPE_CHECKING:
    from sousvit.search.budget import SearchLimits

#: Share of a search's time that timing one artifact may take.
TIMING_SHARE = 1 / 100


def timing_plan(limits: SearchLimits) -> TimingPlan:
    """How long artifacts are timed: as the budget says, and for 1% of a limit of time at most."""
    plan = TimingPlan.of(limits.measure_time)
    return plan if limits.time is None else plan.within(limits.time * TIMING_SHARE)
