"""The worker process: loads the base once, then judges recipes (a function of recipe, fidelity and seed)."""

from __future__ import annotations

import pickle
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol, cast

from sousvit.errors import SharedInputError, TrialError, UserError
from sousvit.faults import told_fault
from sousvit.machine import end_with_parent, lease_cores
from sousvit.objectives.objective import Measurement
from sousvit.registry import load_class
from sousvit.search.executors.executor import Job, JobResult, MakeTable, Progress, Request, Start, Verify
from sousvit.search.executors.spawn import ignore_interrupts
from sousvit.search.results import FinalTable
from sousvit.search.trial import BaseRecord


class Judging(Protocol):
    """What answers a worker's requests: :class:`sousvit.search.judging.judge.Judge`, or a stand-in for it.

    It is made from a worker's setup and told where progress goes.
    """

    def start(self, known: BaseRecord | None) -> BaseRecord:
        """What a :class:`.Start` gives."""

    def judge(self, job: Job) -> JobResult:
        """What came of a :class:`.Job`."""

    def verify(self, request: Verify) -> dict[str, Measurement]:
        """What a :class:`.Verify` gives."""

    def make_table(self, request: MakeTable) -> FinalTable:
        """What a :class:`.MakeTable` gives."""

    def close(self) -> None:
        """Free what is held; no request is answered afterwards."""


def serve(connection: Connection, setup: dict[str, Any]) -> None:
    """Answer requests until told to stop (by None) or the driver is gone.

    Args:
        setup: see :class:`.Judge`. ``cores``: how many to lease, where other workers of this machine
            train or measure beside it. ``judge`` names another class (``file.py:Class``), such as one that
            gives recorded results.
    """
    ignore_interrupts()  # Ctrl-C is the driver's to handle
    end_with_parent()
    if setup.get("cores"):
        lease_cores(setup["cores"])

    def progress(*content: Any) -> None:
        connection.send(("progress", content))

    judge: Judging | None = None
    while True:
        try:
            request = connection.recv()
        except (EOFError, ConnectionError):
            return
        if request is None:
            return
        try:
            judge = judge or judge_class(setup)(setup, progress)
            connection.send(("answer", answered(judge, request)))
        except (BrokenPipeError, ConnectionError):
            return
        except Exception as error:
            connection.send(("error", _sendable(told_fault(error) or error)))


def judge_class(setup: dict[str, Any]) -> Callable[[dict[str, Any], Progress], Judging]:
    """The class that judges: ours, or the one that ``setup`` names."""
    if setup.get("judge"):
        named: Any = load_class(setup["judge"], "judge")
        return cast("Callable[[dict[str, Any], Progress], Judging]", named)
    from sousvit.search.judging.judge import Judge

    return Judge


def answered(judge: Judging, request: Request[Any]) -> Any:
    """What a request gives.

    Raises:
        UserError, TrialError: of a job only what concerns every job; of others whatever goes wrong.
    """
    match request:
        case Start():
            return judge.start(request.known)
        case Job():
            return judged(judge, request)
        case Verify():
            return judge.verify(request)
        case MakeTable():
            return judge.make_table(request)
    raise TypeError(f"a judge knows no {type(request).__name__}")


def judged(judge: Judging, job: Job) -> JobResult:
    """A job's result; what goes wrong in it is its own failure. Broken data and faults of the machine are everybody's.

    Raises:
        SharedInputError: what every job needs is broken.
    """
    begun = time.monotonic()
    try:
        return judge.judge(job)
    except (SharedInputError, BrokenPipeError, ConnectionError):
        raise  # of the latter, the driver is gone
    except Exception as error:  # a bug in one technique's code must not end a search
        fault = told_fault(error)
        if fault is not None:
            raise fault from error
        message = _in_a_line(error)
    return JobResult(job.attempt, "failed", seconds={"failed": time.monotonic() - begun}, message=message)


def _in_a_line(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "out of memory"
    return str(error) if isinstance(error, TrialError | UserError) else _last_line(error)


def _last_line(error: BaseException) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text} ({Path(place.filename).name}:{place.lineno})"


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(_last_line(error))
    return error
