"""The local executor with several workers: each has cores of its own, to train and to measure on.

Threads of one small training wait for each other: two trainings of one thread each do 1.2 to 1.7 times the work of one
of two threads (``benchmarks/workers``). How many train fastest together is measured with the base
(:mod:`sousvit.search.judging.pace`).
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sousvit.search.executors.executor import G, Job, JobResult, Progress, QueueExecutor, Request
from sousvit.search.executors.local import LocalExecutor
from sousvit.search.trial import BaseRecord


class SideBySideExecutor(QueueExecutor):
    """Runs one job a worker.

    The first worker measures the base and answers all requests that are no jobs, alone and with all cores.

    Args:
        make: makes a worker's executor, told by the function that it is given what its job does, and with so many
            cores of its own (None: all).
        count: of workers, from the base's figures.
        cores: of the machine, which the workers share.
        progress: told what the job does that runs longest.
    """

    def __init__(
        self,
        make: Callable[[Progress, int | None], LocalExecutor],
        count: Callable[[BaseRecord], int],
        cores: int,
        progress: Progress | None = None,
    ) -> None:
        self._make, self._count, self._cores = make, count, cores
        self._progress = progress or (lambda what, done, total: None)
        self._members: list[LocalExecutor] = [make(self._progress, None)]
        #: Whether jobs run in threads, and workers keep to their cores.
        self._are_apart = False
        self._spent = 0.0
        #: Workers whose jobs run, in the order in which these began.
        self._running: list[int] = []
        #: One a worker, for as long as it is needed: a process that a thread has started ends with that thread.
        self._threads: list[ThreadPoolExecutor] = [ThreadPoolExecutor(1)]
        #: What the threads of the running jobs tell: the worker, and its progress, result or error.
        self._told: queue.Queue[tuple[int, Any]] = queue.Queue()

    def start(self, known: BaseRecord | None) -> BaseRecord:
        base = self._members[0].start(known)
        self.capacity = self._count(base)
        for place in range(1, self.capacity):
            self._members.append(self._make(self._teller(place), self._share))
            self._threads.append(ThreadPoolExecutor(1))
            self._members[place].know(base)  # it starts with its first job
        return base

    def submit(self, job: Job) -> None:
        place = next(place for place in range(self.capacity) if place not in self._running)
        if not self._are_apart:
            self._members[0].tell(self._teller(0))
            if self.capacity > 1:
                self._members[0].use_cores(self._share)
            self._are_apart = True
        self._running.append(place)
        self._threads[place].submit(self._run, place, job)

    def wait(self) -> JobResult:
        while True:
            place, content = self._told.get()
            if isinstance(content, tuple):
                if self._running and self._running[0] == place:
                    self._progress(*content)
                continue
            self._running.remove(place)
            if isinstance(content, BaseException):
                raise content
            result: JobResult = content
            return result

    def call(self, request: Request[G]) -> G:
        first = self._members[0]
        for other in self._members[1:]:  # none of them is needed again, and their memory is
            self._close(other)
        del self._members[1:]
        if self._are_apart:
            first.tell(self._progress)
            if self.capacity > 1:
                first.use_cores(None)
            self.capacity, self._are_apart = 1, False
        return first.call(request)

    def core_seconds(self) -> float:
        return self._spent + sum(member.core_seconds() for member in self._members)

    def close(self) -> None:
        for member in self._members:
            member.stop()
        for thread in self._threads:
            thread.shutdown()
        self._running.clear()
        for member in self._members:
            member.close()

    @property
    def _share(self) -> int:
        """Cores of a worker."""
        return max(1, self._cores // self.capacity)

    def _close(self, member: LocalExecutor) -> None:
        self._spent += member.core_seconds()
        member.close()

    def _teller(self, place: int) -> Progress:
        return lambda what, done, total: self._told.put((place, (what, done, total)))

    def _run(self, place: int, job: Job) -> None:
        try:
            self._told.put((place, self._members[place].run(job)))
        except BaseException as error:
            self._told.put((place, error))
