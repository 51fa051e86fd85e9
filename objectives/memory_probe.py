"""The process that measures peak memory: ``python -m sousvit.objectives.memory_probe FOLDER THREADS BATCH``.

Prints one JSON line ``{"before_bytes": ..., "peak_bytes": ...}``; the second is growth over the first.
Imports nothing but the artifact's own runtime.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

import numpy as np

from sousvit.objectives.runtimes.runtime import get_runtime
from sousvit.spaces.artifact import Artifact

RUNS = 3


def probe(folder: Path, threads: int, batch: int) -> dict[str, int]:
    """Open the artifact, run it a few times, and compare resident memory before with the peak since."""
    artifact = Artifact.open(folder)
    runtime = get_runtime(artifact.runtime)
    runtime.require()
    images = np.random.default_rng(0).standard_normal((batch, *artifact.input_shape[1:]), dtype=np.float32)
    gc.collect()
    reset_peak()
    before = resident_bytes()
    session = runtime.open(artifact, threads, batch)
    for _ in range(RUNS):
        session.run(images)
    return {"before_bytes": before, "peak_bytes": max(peak_bytes(), resident_bytes()) - before}


def reset_peak() -> None:
    """Forget the peak so far, where the system can (Linux); elsewhere start-up stays in the peak."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def resident_bytes() -> int:
    """Resident memory of this process now."""
    status = _linux_status("VmRSS")
    if status is not None:
        return status
    import psutil

    return int(psutil.Process().memory_info().rss)


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


def _linux_status(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def main() -> int:
    """Command line; a failure is one line on stderr."""
    folder, threads, batch = sys.argv[1:]
    try:
        result = probe(Path(folder), int(threads), int(batch))
    except Exception as error:  # the parent shows the line
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
