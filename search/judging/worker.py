"""The worker process: loads the base once, then judges recipes (a function of recipe, fidelity and seed)."""

from __future__ import annotations

import pickle
import signal
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sousvit.errors import SharedInputError, TrialError, UserError
from sousvit.machine import end_with_parent, lease_cores
from sousvit.registry import load_class
from sousvit.search.executors.executor import Job, JobResult


def serve(connection: Connection, setup: dict[str, Any]) -> None:
    """Answer requests until told to stop or the driver is gone.

    Args:
        setup: see :class:`.Judge`; with ``cores``, so many are leased where other workers of this
            machine train or measure beside it; ``judge`` names another class (``file.py:Class``), such as one that
            gives recorded results.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    end_with_parent()
    if setup.get("cores"):
        lease_cores(setup["cores"])
    judge: Any = None
    while True:
        try:
            message = connection.recv()
        except (EOFError, ConnectionError):
            return
        if message[0] == "stop":
            return

        def progress(*content: Any) -> None:
            connection.send(("progress", content))

        try:
            if message[0] == "start":
                judge = judge_class(setup)(setup, progress)
                answer = judge.start(message[1])
            elif message[0] == "job":
                answer = judged(judge, message[1])
            else:
                answer = getattr(judge, f"call_{message[1]}")(**message[2])
            connection.send(("answer", answer))
        except UserError as error:
            connection.send(("error", error))
        except (BrokenPipeError, ConnectionError):
            return
        except Exception as error:
            connection.send(("error", _sendable(error)))


def judge_class(setup: dict[str, Any]) -> Any:
    """The class that judges: ours, or the one that ``setup`` names."""
    if setup.get("judge"):
        return load_class(setup["judge"], "judge")
    from sousvit.search.judging.judge import Judge

    return Judge


def judged(judge: Any, job: Job) -> JobResult:
    """A job's result; whatever goes wrong in it is its own failure. A full disk or broken data is everybody's.

    Raises:
        SharedInputError: what every job needs is broken.
    """
    begun = time.monotonic()
    try:
        return judge.judge(job)
    except TrialError as error:
        message = str(error)
    except SharedInputError:
        raise
    except UserError as error:
        message = str(error)
    except MemoryError:
        message = "out of memory"
    except (BrokenPipeError, ConnectionError):
        raise  # the driver is gone
    except Exception as error:  # a bug in one technique's code must not end a search
        message = _last_line(error)
    return JobResult(job.attempt, "failed", seconds={"failed": time.monotonic() - begun}, message=message)


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
