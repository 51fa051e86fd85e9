"""Processes that are started afresh (spawned), and the script without a main guard that they run once more.

A spawned process imports the script that started it before it does anything else. What stands there outside
``if __name__ == "__main__"`` would begin again in the worker; every call that may start workers therefore looks here
first (:func:`end_if_rerun`), and who lost a worker asks why (:func:`unguarded`).
"""

from __future__ import annotations

import multiprocessing

from sousvit.errors import UserError

#: Exit code of a worker in which the script that started it came, run again, to a call that starts workers.
UNGUARDED = 97


def end_if_rerun() -> None:
    """End this process if it is a worker that is still importing the script that started it."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(UNGUARDED)


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
    process.start()
    process.join()
    return process.exitcode == UNGUARDED


def _nothing() -> None:
    """What the worker would have done."""
