"""The simulated executor: answers jobs from a function at once, on a clock of its own. For engine tests and replays."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from itertools import count
from typing import Any

from sousvit.search.executors.executor import Job, JobResult, QueueExecutor
from sousvit.search.trial import BaseRecord


class SimulatedClock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class SimulatedExecutor(QueueExecutor):
    """Judges jobs by ``judge(job) -> JobResult``; an outcome comes when its seconds have passed on the clock.

    Args:
        base: figures of the base model.
        judge: gives a job's outcome.
        clock: advanced to the end of every job.
        answers: functions for :meth:`call`.
        workers: jobs that run at once.
    """

    def __init__(
        self,
        base: BaseRecord,
        judge: Callable[[Job], JobResult],
        clock: SimulatedClock | None = None,
        answers: dict[str, Callable[..., Any]] | None = None,
        workers: int = 1,
    ) -> None:
        self._base, self._judge, self._answers = base, judge, answers or {}
        self.clock, self.capacity = clock or SimulatedClock(), workers
        #: (end, order of submission, outcome), the earliest first.
        self._running: list[tuple[float, int, JobResult]] = []
        self._order = count()
        self.jobs: list[Job] = []
        self._spans: list[tuple[float, float]] = []

    def start(self, known: BaseRecord | None) -> BaseRecord:
        return known or self._base

    def submit(self, job: Job) -> None:
        self.jobs.append(job)
        outcome = self._judge(job)
        seconds = sum(outcome.seconds.values())
        self._spans.append((self.clock.now, self.clock.now + seconds))
        heapq.heappush(self._running, (self.clock.now + seconds, next(self._order), outcome))

    def busy_until(self, moment: float = math.inf) -> float:
        """Worker seconds in use until ``moment`` of the clock."""
        return sum(max(0.0, min(end, moment) - begin) for begin, end in self._spans)

    def wait(self) -> JobResult:
        end, _, outcome = heapq.heappop(self._running)
        self.clock.now = max(self.clock.now, end)
        return outcome

    def call(self, function: str, **arguments: Any) -> Any:
        return self._answers[function](**arguments)

    def core_seconds(self) -> float:
        return self.busy_until()

    def close(self) -> None:
        self._running.clear()
