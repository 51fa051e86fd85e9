"""Processes that are started afresh (spawned), and the script without a main guard that they run once more.

A spawned process imports the script that started it before it does anything else. What stands there outside
``if __name__ == "__main__"`` would begin again in the worker; every call that may start workers therefore looks here
first (:func:`end_if_rerun`), and who lost a worker asks why (:func:`unguarded`).
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from multiprocessing import resource_tracker
from typing import Any, Protocol

from sousvit.errors import UserError

#: Exit code of a worker in which the script that started it came, run again, to a call that starts workers.
UNGUARDED = 97


def end_if_rerun() -> None:
    """End this process if it is a worker that is still importing the script that started it."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(UNGUARDED)


class Startable(Protocol):
    """A process of :mod:`multiprocessing`."""

    def start(self) -> None:
        """Begin."""


def start_deaf(process: Startable) -> None:
    """Start a process that Ctrl-C does not reach before it says what becomes of it; nor does it cut the start short.

    A terminal sends it to all processes of a command, and one that is still importing would end with a traceback. Here
    it is raised once the process has begun.
    """
    if not hasattr(signal, "pthread_sigmask"):  # not on Windows
        process.start()
        return
    resource_tracker.ensure_running()  # its own start would let the signal through again
    told: list[int] = []
    before: Any = None
    if threading.current_thread() is threading.main_thread():  # only there it is raised
        before = signal.signal(signal.SIGINT, lambda number, frame: told.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the new process has it too
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if before is not None:
            signal.signal(signal.SIGINT, before)
    if told:
        signal.raise_signal(signal.SIGINT)


def ignore_interrupts() -> None:
    """Ignore Ctrl-C in this process, which :func:`start_deaf` started, and in those that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def unguarded(instead: str) -> UserError:
    """The error of a script whose call began again in its worker; ``instead`` is what needs no guard."""
    return UserError(
        "a script that starts worker processes is imported by them",
        "a call outside if __name__ == '__main__'",
        f"put the call under if __name__ == '__main__':, or use {instead}",
    )


def is_unguarded() -> bool:
    """Whether a worker of this script ends as :func:`end_if_rerun` says: one is started to see."""
    process = multiprocessing.get_context("spawn").Process(target=_nothing, daemon=True)
    start_deaf(process)
    process.join()
    return process.exitcode == UNGUARDED


def _nothing() -> None:
    """What the worker would have done."""
