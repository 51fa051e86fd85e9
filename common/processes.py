"""Child processes: one that ends with its parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys


def end_with_parent(parent: int | None = None) -> None:
    """On Linux the kernel kills this process when its parent ends, however it ends; elsewhere nothing happens.

    Args:
        parent: process id, to notice that the parent ended before this was called; None where init is never it.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() == 1 if parent is None else os.getppid() != parent:
            sys.exit(1)
