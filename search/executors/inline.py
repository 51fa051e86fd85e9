"""The inline executor: trials run in the calling process, so a notebook or a plain script needs nothing around them."""

from __future__ import annotations

import os
from typing import Any

from sousvit.search.executors.executor import G, Job, JobResult, Progress, QueueExecutor, Request
from sousvit.search.judging.worker import Judging, answered, judge_class, judged
from sousvit.search.trial import BaseRecord


class InlineExecutor(QueueExecutor):
    """Runs one job at a time, here. A crash of the process ends the search (the same call resumes it).

    Threads and random numbers of torch are set while it is open, and put back when it closes.

    Args:
        setup: plain values that a worker would start from (budget, run folder), and ``base``, a loaded model, where
            it lies in memory only.
        progress: told what the running job does.
    """

    def __init__(self, setup: dict[str, Any], progress: Progress | None = None) -> None:
        self._setup, self._progress = setup, progress or (lambda what, done, total: None)
        self._judge: Judging | None = None
        self._job: Job | None = None
        self._before: Any = None
        self._begun = _cpu_seconds()

    def start(self, known: BaseRecord | None) -> BaseRecord:
        import torch

        self._before = torch.get_num_threads(), torch.get_rng_state()
        self._judge = judge_class(self._setup)(self._setup, self._progress)
        return self._judge.start(known)

    def submit(self, job: Job) -> None:
        assert self._job is None, "the inline executor runs one job at a time"
        self._job = job

    def wait(self) -> JobResult:
        job, self._job = self._job, None
        assert job is not None, "nothing was submitted"
        assert self._judge is not None, "it was not started"
        return judged(self._judge, job)

    def call(self, request: Request[G]) -> G:
        assert self._judge is not None, "it was not started"
        answer: G = answered(self._judge, request)
        return answer

    def core_seconds(self) -> float:
        return _cpu_seconds() - self._begun

    def close(self) -> None:
        if self._judge is not None:
            self._judge.close()
            self._judge = None
        if self._before is not None:
            import torch

            threads, numbers = self._before
            torch.set_num_threads(threads)
            torch.set_rng_state(numbers)
            self._before = None


def _cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system
