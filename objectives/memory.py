"""Peak memory of inference and load time, measured in a fresh process per artifact."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from sousvit.objectives.devices.process import measure
from sousvit.objectives.devices.protocol import Request
from sousvit.objectives.memory_probe import Probe
from sousvit.objectives.objective import Direction, Measurement, Objective, Stage, Subject

if TYPE_CHECKING:
    from sousvit.spaces.export.artifact import Artifact


def probe_artifact(artifact: Artifact, threads: int = 1, batch: int = 1, timeout: float = 120.0) -> Probe:
    """Memory and load time of an artifact, measured in a fresh process of this machine.

    Args:
        artifact: any runtime's.
        threads: of the session.
        batch: images a run.
        timeout: seconds.

    Raises:
        TrialError: the process failed or took too long.
    """
    order = Request("probe", {"artifact": artifact}, "artifact", threads, batch, timeout=timeout)
    answer = measure(order)
    return Probe(int(answer["memory_bytes"]), int(answer["process_bytes"]), float(answer["load_ms"]))


class Memory(Objective):
    """Peak growth of resident memory in megabytes of 10^6 bytes."""

    name: ClassVar[str] = "memory"
    unit: ClassVar[str] = "MB"
    direction: ClassVar[Direction] = "minimize"
    stage: ClassVar[Stage] = Stage.ARTIFACT
    summary: ClassVar[str] = "peak memory of inference on the target"
    per_target: ClassVar[bool] = True

    def measure(self, subject: Subject) -> Measurement:
        return Measurement(subject.probe.memory_bytes / 1e6)


class LoadTime(Objective):
    """Milliseconds from the file to the first logits, the runtime imported and the file in the system's cache."""

    name: ClassVar[str] = "load_time"
    unit: ClassVar[str] = "ms"
    direction: ClassVar[Direction] = "minimize"
    stage: ClassVar[Stage] = Stage.ARTIFACT
    summary: ClassVar[str] = "time to load the artifact on the target, until its first logits"
    per_target: ClassVar[bool] = True

    def measure(self, subject: Subject) -> Measurement:
        return Measurement(subject.probe.load_ms)
