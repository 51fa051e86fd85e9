"""The simulated executor: answers jobs from a function at once, on a clock of its own. For engine tests and replays."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from sousvit.search.executors.executor import G, Job, JobResult, QueueExecutor, Request
from sousvit.search.trial import BaseRecord


class SimulatedClock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class SimulatedExecutor(QueueExecutor):
    """Executor of made-up results, ``judge(job) -> JobResult``; each comes when its seconds have passed on the clock.

    Args:
        base: figures of the base model.
        judge: gives a job's result.
        clock: advanced to the end of every job.
        answers: a function for every type of request that :meth:`call` is to answer.
        workers: jobs that run at once.
    """

    def __init__(
        self,
        base: BaseRecord,
        judge: Callable[[Job], JobResult],
        clock: SimulatedClock | None = None,
        answers: Mapping[type[Request[Any]], Callable[[Any], Any]] | None = None,
        workers: int = 1,
    ) -> None:
        self._base, self._judge, self._answers = base, judge, dict(answers or {})
        self.clock, self.capacity = clock or SimulatedClock(), workers
        #: (end, order of submission, result), the earliest first.
        self._running: list[tuple[float, int, JobResult]] = []
        self._order = count()
        self.jobs: list[Job] = []
        self._spans: list[tuple[float, float]] = []

    def start(self, known: BaseRecord | None) -> BaseRecord:
        return known or self._base

    def submit(self, job: Job) -> None:
        self.jobs.append(job)
        result = self._judge(job)
        seconds = sum(result.seconds.values())
        self._spans.append((self.clock.now, self.clock.now + seconds))
        heapq.heappush(self._running, (self.clock.now + seconds, next(self._order), result))

    def busy_until(self, moment: float = math.inf) -> float:
        """Worker seconds in use until ``moment`` of the clock."""
        return sum(max(0.0, min(end, moment) - begin) for begin, end in self._spans)

    def wait(self) -> JobResult:
        end, _, result = heapq.heappop(self._running)
        self.clock.now = max(self.clock.now, end)
        return result

    def wait_for_some(self) -> list[JobResult]:
        found = [self.wait()]
        while self._running and self._running[0][0] <= self.clock.now:
            found.append(self.wait())
        return found

    def call(self, request: Request[G]) -> G:
        answer: G = self._answers[type(request)](request)
        return answer

    def core_seconds(self) -> float:
        return self.busy_until()

    def close(self) -> None:
        self._running.clear()
