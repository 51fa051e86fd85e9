"""Peak memory of inference, measured in a fresh process per artifact."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, ClassVar

from sousvit.common.errors import TrialError
from sousvit.objectives.objective import OBJECTIVES, Direction, Measurement, Objective, Stage, Subject

if TYPE_CHECKING:
    from sousvit.spaces.artifact import Artifact


def peak_memory(artifact: Artifact, threads: int = 1, batch: int = 1, timeout: float = 120.0) -> int:
    """Bytes by which opening the artifact and running it raise the peak resident memory of a process.

    The interpreter and the imported runtime are not counted; what the runtime loads with its first model is.

    Args:
        artifact: any runtime's.
        threads: of the session.
        batch: images a run.
        timeout: seconds.

    Raises:
        TrialError: the process failed or took too long.
    """
    command = [sys.executable, "-m", "sousvit.objectives.memory_probe", str(artifact.folder), str(threads), str(batch)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise TrialError(f"measuring memory took longer than {timeout:g} s") from error
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise TrialError(f"measuring memory failed: {reason[:200]}")
    return int(json.loads(done.stdout.strip().splitlines()[-1])["peak_bytes"])


class Memory(Objective):
    """Peak growth of resident memory in megabytes of 10^6 bytes."""

    name: ClassVar[str] = "memory"
    unit: ClassVar[str] = "MB"
    direction: ClassVar[Direction] = "minimize"
    stage: ClassVar[Stage] = Stage.ARTIFACT
    summary: ClassVar[str] = "peak memory of inference on the target"

    def measure(self, subject: Subject) -> Measurement:
        """See :class:`Objective`."""
        return Measurement(subject.memory_bytes / 1e6)


OBJECTIVES.add(Memory.name, Memory())
