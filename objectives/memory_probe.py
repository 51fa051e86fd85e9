"""Peak memory and load time of an artifact; called in a fresh process (:mod:`sousvit.objectives.devices.measure`)."""

from __future__ import annotations

import gc
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sousvit.objectives.runtimes.runtime import get_runtime, opener

if TYPE_CHECKING:
    from sousvit.spaces.export.artifact import Artifact

RUNS = 3
LOADS = 5


@dataclass(frozen=True)
class Probe:
    """Memory and load time of an artifact in a fresh process.

    Attributes:
        memory_bytes: growth of its peak resident memory by opening and running the artifact; the interpreter and the
            imported runtime are not counted.
        process_bytes: peak resident memory of the whole process, which is compared with a device's memory.
        load_ms: from the file to the first logits, the runtime imported and the file in the system's cache; median.
    """

    memory_bytes: int
    process_bytes: int
    load_ms: float


def probe(artifact: Artifact, threads: int, batch: int) -> Probe:
    """Open and run the artifact several times: the first gives its memory, the others its load time.

    Raises:
        MissingPackageError: the runtime is not installed.
        TrialError: it does not take the file.
    """
    get_runtime(artifact.runtime).require()
    opens = opener(artifact)
    images = np.random.default_rng(0).standard_normal((batch, *artifact.input_shape[1:]), dtype=np.float32)
    gc.collect()
    reset_peak()
    before = resident_bytes()
    with opens(threads, batch) as session:
        for _ in range(RUNS):
            session.run(images)
        peak = max(peak_bytes(), resident_bytes())
    loads = []
    for _ in range(LOADS):
        begun = time.perf_counter()
        with opens(threads, batch) as session:
            session.run(images)
            loads.append(1e3 * (time.perf_counter() - begun))
    return Probe(peak - before, max(peak, peak_bytes()), float(np.median(loads)))


def reset_peak() -> None:
    """Forget the peak so far, where the system can (Linux); elsewhere start-up stays in the peak."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def resident_bytes(pid: int | None = None) -> int:
    """Resident memory now, of this process or of another; 0 for one that has ended."""
    status = _linux_status("VmRSS", pid)
    if status is not None:
        return status
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def peak_bytes() -> int:
    """Peak resident memory of this process, since :func:`reset_peak` on Linux."""
    status = _linux_status("VmHWM")
    if status is not None:
        return status
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _linux_status(field: str, pid: int | None = None) -> int | None:
    """A memory field of ``/proc``; None where the system has no such file."""
    try:
        lines = Path(f"/proc/{'self' if pid is None else pid}/status").read_text().splitlines()
    except OSError:
        return 0 if sys.platform == "linux" and pid is not None else None
    # A process that has ended but was not waited for has a status without memory.
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)
