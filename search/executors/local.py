"""The local executor: one worker process, started afresh after a crash, a hang or an out-of-memory.

The driver never imports torch for a trial: whatever a model or a runtime does to its process, the search
and its archive live on. The worker ends by itself when the driver is gone.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from sousvit.errors import TrialError, UserError
from sousvit.faults import fault_behind
from sousvit.search.executors.executor import G, Job, JobResult, Progress, QueueExecutor, Request, Start
from sousvit.search.executors.spawn import UNGUARDED, start_deaf, unguarded
from sousvit.search.trial import BaseRecord

#: Share of the machine's memory that one trial may take unless the budget says otherwise.
MEMORY_SHARE = 0.85


class WorkerLostError(RuntimeError):
    """The worker process ended, hung or outgrew its memory."""


class WorkerEndedError(WorkerLostError):
    """The worker process ended without being told to."""


class LocalExecutor(QueueExecutor):
    """Runs one job at a time in a spawned process.

    Args:
        entry: importable function ``entry(connection, setup)`` that serves requests (see worker.py).
        setup: plain values that the worker starts from (budget, run folder).
        memory_bytes: resident memory above which the worker is killed; None for a share of the machine's.
        progress: told what the running job does.
        start_timeout: seconds for loading the model and data and measuring the base.
    """

    def __init__(
        self,
        entry: Callable[[Connection, dict[str, Any]], None],
        setup: dict[str, Any],
        memory_bytes: float | None = None,
        progress: Progress | None = None,
        start_timeout: float = 3600.0,
    ) -> None:
        self._entry, self._setup, self._progress = entry, setup, progress
        self._memory = memory_bytes or MEMORY_SHARE * psutil.virtual_memory().total
        self._start_timeout = start_timeout
        self._process: Any = None
        self._connection: Connection | None = None
        self._base: BaseRecord | None = None
        self._job: Job | None = None
        self._cpu = self._ended_cpu = 0.0

    def start(self, known: BaseRecord | None) -> BaseRecord:
        self._base = known
        self._spawn()
        assert self._base is not None
        return self._base

    def submit(self, job: Job) -> None:
        assert self._job is None, "the local executor runs one job at a time"
        self._job = job

    def wait(self) -> JobResult:
        job, self._job = self._job, None
        assert job is not None, "nothing was submitted"
        begun = time.monotonic()
        try:
            if self._process is None:
                self._spawn()
            return self._ask(job, job.timeout + job.grace)
        except WorkerLostError as error:
            self._kill()
            if isinstance(error, WorkerEndedError):
                self._require_sound(error)
            spent = {"lost": time.monotonic() - begun}
            ended = isinstance(error, WorkerEndedError)
            return JobResult(job.attempt, "failed", seconds=spent, message=str(error), lost=ended)

    def call(self, request: Request[G]) -> G:
        if self._process is None:
            self._spawn()
        try:
            return self._ask(request, math.inf)
        except WorkerLostError as error:
            self._kill()
            self._require_sound(error)
            raise TrialError(f"{request.doing}: {error}") from error

    def core_seconds(self) -> float:
        self._note_cpu_time()
        return self._ended_cpu + self._cpu

    def close(self) -> None:
        if self._connection is not None and self._process is not None and self._process.is_alive():
            try:
                self._connection.send(None)
                self._process.join(2)
            except OSError:
                pass  # it ended between the question and the word
        self._kill()

    def _spawn(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=self._entry, args=(theirs, self._setup), daemon=True)
        try:
            start_deaf(process)
        finally:
            theirs.close()
            if process.pid is not None:  # what never began cannot be ended
                self._process, self._connection = process, ours
        try:
            self._base = self._ask(Start(self._base), self._start_timeout)
        except WorkerLostError as error:
            exit_code = self._process.exitcode
            self._kill()
            if exit_code == UNGUARDED:
                raise unguarded("executor='inline'") from None
            raise UserError(
                "the worker must load the model and data", error, "give it more memory or a smaller model"
            ) from error

    def _ask(self, request: Request[G], timeout: float) -> G:
        """Send a request and return what it gives, passing progress on."""
        assert self._connection is not None
        deadline = time.monotonic() + timeout
        try:
            self._connection.send(request)
            while True:
                if self._connection.poll(0.2):
                    kind, content = self._connection.recv()
                    if kind == "progress":
                        if self._progress is not None:
                            self._progress(*content)
                    elif kind == "error":
                        raise content
                    else:
                        answer: G = content
                        return answer
                self._check_health(deadline, timeout)
        except (EOFError, ConnectionError) as error:
            raise WorkerEndedError(self._last_words()) from error

    def _require_sound(self, error: WorkerLostError) -> None:
        """A worker that reads a file which a full disk has cut is killed: no recipe is to blame.

        Raises:
            SharedInputError: the machine has a fault.
        """
        fault = fault_behind(error, *(Path(folder) for folder in (self._setup.get("folder"),) if folder))
        if fault is not None:
            raise fault from error

    def _check_health(self, deadline: float, timeout: float) -> None:
        if time.monotonic() > deadline:
            raise WorkerLostError(f"no answer within {timeout:.0f} s")
        try:
            used = psutil.Process(self._process.pid).memory_info().rss
        except psutil.Error:
            return  # it ended; the pipe tells next
        if used > self._memory:
            raise WorkerLostError(f"out of memory: {used / 1e9:.1f} GB of {self._memory / 1e9:.1f} GB allowed")

    def _note_cpu_time(self) -> None:
        if self._process is not None:
            with contextlib.suppress(psutil.Error):
                times = psutil.Process(self._process.pid).cpu_times()
                self._cpu = times.user + times.system + times.children_user + times.children_system

    def _last_words(self) -> str:
        self._process.join(5)
        code = self._process.exitcode
        if code is not None and code < 0:
            hint = " (often the system's out-of-memory killer)" if code == -9 else ""
            return f"the worker was killed by signal {-code}{hint}"
        return f"the worker ended with exit code {code}"

    def _kill(self) -> None:
        if self._process is not None:
            self._note_cpu_time()
            self._ended_cpu, self._cpu = self._ended_cpu + self._cpu, 0.0
            for child in _children(self._process.pid):
                child.kill()
            self._process.kill()
            self._process.join()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None


def _children(pid: int | None) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []
