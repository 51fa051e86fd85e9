"""The simulated executor: answers jobs from a function at once, on a clock of its own. For engine tests and replays."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from sousvit.search.executors.executor import Executor, Job, Outcome
from sousvit.search.record import BaseRecord


class SimulatedClock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class SimulatedExecutor(Executor):
    """Judges jobs by ``judge(job) -> Outcome``; the outcome's seconds pass on the clock.

    Args:
        base: figures of the base model.
        judge: gives a job's outcome.
        clock: advanced by every outcome.
        answers: functions for :meth:`call`.
    """

    def __init__(
        self,
        base: BaseRecord,
        judge: Callable[[Job], Outcome],
        clock: SimulatedClock | None = None,
        answers: dict[str, Callable[..., Any]] | None = None,
    ) -> None:
        self._base, self._judge, self._answers = base, judge, answers or {}
        self.clock = clock or SimulatedClock()
        self._queue: deque[Job] = deque()
        self.jobs: list[Job] = []

    def start(self, known: BaseRecord | None) -> BaseRecord:
        return known or self._base

    def submit(self, job: Job) -> None:
        self._queue.append(job)

    def wait(self) -> Outcome:
        job = self._queue.popleft()
        self.jobs.append(job)
        outcome = self._judge(job)
        self.clock.now += sum(outcome.seconds.values())
        return outcome

    def call(self, function: str, **arguments: Any) -> Any:
        return self._answers[function](**arguments)

    def core_seconds(self) -> float:
        return self.clock.now

    def close(self) -> None:
        self._queue.clear()
