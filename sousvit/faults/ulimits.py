"""Limits of the system on a process (``ulimit``), looked at before anything is loaded.

Libraries meet them badly: some print a page and end the process, some wait for ever, some are killed.
"""

from __future__ import annotations

import threading

from sousvit.errors import UserError
from sousvit.faults.fault import told_fault
from sousvit.machine import available_cores

#: Address space (bytes) that importing numpy takes (seen on two cores: 250 MB are too few, 300 enough), and what torch
#: with its CUDA libraries, ONNX Runtime, OpenVINO and NNCF take together (a peak of 3.9 GB).
LIGHT_SPACE, FULL_SPACE = 320 << 20, 4 << 30
#: Files that a driver with a worker process has open at once, with some to spare.
FILES = 64
#: Threads beside two a core.
THREADS = 8


def require_ulimits(computing: bool) -> None:
    """Hold the limits of this process against what a command needs.

    Args:
        computing: whether models are loaded.

    Raises:
        UserError: a limit is too low.
    """
    try:
        import resource
    except ImportError:  # Windows has none
        return
    space = FULL_SPACE if computing else LIGHT_SPACE
    _require(resource.RLIMIT_AS, space, "address space", "-v", 1 << 20, " MB")
    if computing:
        _require(resource.RLIMIT_NOFILE, FILES, "open files", "-n", 1, "")
    _require_threads(2 * available_cores() + THREADS)


def _require(limit: int, least: int, what: str, option: str, unit: int, name: str) -> None:
    import resource

    allowed = resource.getrlimit(limit)[0]
    if allowed != resource.RLIM_INFINITY and allowed < least:
        received = f"ulimit {option}: {allowed // unit}{name}"
        action = f"raise it to {-(-least // unit)}{name} or more, or run ulimit {option} unlimited"
        raise UserError(f"the system must allow enough {what}", received, action)


def _require_threads(count: int) -> None:
    """Threads are counted by user and by group of processes, so whether they start is seen by starting them."""
    over = threading.Event()
    threads = [threading.Thread(target=over.wait, daemon=True) for _ in range(count)]
    started = []
    try:
        for thread in threads:
            thread.start()
            started.append(thread)
    except RuntimeError as error:
        raise told_fault(error) or error from error
    finally:
        over.set()
        for thread in started:
            thread.join()
