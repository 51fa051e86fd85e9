"""Cores of this machine, leased by processes that must not disturb each other: one trains while the other measures."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import IO

#: Leases of this process; closing one (or ending in any way) gives the core back.
_leases: dict[int, IO[bytes]] = {}


def lease_cores(count: int, folder: Path | None = None) -> list[int]:
    """Lease up to ``count`` free cores for this process's life and run on them only.

    Where the system cannot pin a process, or fewer cores are free, nothing is pinned.

    Args:
        folder: where the leases lie; by default one place a machine and user.

    Returns:
        The leased cores; empty where nothing is pinned.
    """
    if not hasattr(os, "sched_setaffinity"):
        return []
    folder = folder or Path(tempfile.gettempdir()) / f"sousvit-cores-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True)
    allowed = sorted(os.sched_getaffinity(0))
    found = [core for core in allowed if core in _leases]
    for core in allowed:
        if len(found) < count and core not in found and _lease(core, folder):
            found.append(core)
    if len(found) < count:
        for core in found:
            _leases.pop(core).close()
        return []
    os.sched_setaffinity(0, found)
    return found


def _lease(core: int, folder: Path) -> bool:
    """Whether the core was free; an advisory lock dies with its process, so nothing stale is left behind."""
    import fcntl

    stream = (folder / str(core)).open("ab")
    with contextlib.suppress(OSError):
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _leases[core] = stream
        return True
    stream.close()
    return False
