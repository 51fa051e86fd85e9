"""The present process as a device: sessions stay open between timings, so that a trial pays for its own only."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sousvit.errors import TrialError
from sousvit.objectives.devices.device import Device, device_facts
from sousvit.objectives.energy import ABSENT, energy_mj, find_meter
from sousvit.objectives.memory import probe_artifact
from sousvit.objectives.memory_probe import Probe
from sousvit.objectives.runtimes.runtime import Session, open_session
from sousvit.objectives.timing import DEFAULT, Timing, TimingPlan, measure_many

if TYPE_CHECKING:
    from sousvit.objectives.targets.target import Target
    from sousvit.spaces.export.artifact import Artifact


class LocalDevice(Device):
    """Times in this process; memory is measured in a process of its own. It takes the machine as it is."""

    name: ClassVar[str] = "local"

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._kept: dict[Path, Session] = {}

    def facts(self) -> dict[str, Any]:
        return device_facts()

    def time(
        self, artifacts: Mapping[str, Artifact], baseline: str, plan: TimingPlan = DEFAULT, with_baseline: bool = False
    ) -> dict[str, Timing]:
        shape = (self.target.batch, *artifacts[baseline].input_shape[1:])
        with ExitStack() as stack:
            sessions = {name: self._session(artifact, stack) for name, artifact in artifacts.items()}
            return measure_many(sessions, baseline, shape, plan, with_baseline=with_baseline)

    def probe(self, artifact: Artifact) -> Probe:
        return probe_artifact(artifact, self.target.threads, self.target.batch)

    def energy_mj(self, artifact: Artifact, plan: TimingPlan = DEFAULT) -> float:
        meter = find_meter()
        if meter is None:
            raise TrialError(ABSENT)
        batch = np.random.default_rng(0).standard_normal(
            (self.target.batch, *artifact.input_shape[1:]), dtype=np.float32
        )
        with ExitStack() as stack:
            return energy_mj(self._session(artifact, stack), batch, plan.min_seconds, meter)

    def keep(self, artifact: Artifact) -> None:
        if artifact.path not in self._kept:
            self._kept[artifact.path] = self._open(artifact)

    def close(self) -> None:
        for session in self._kept.values():
            session.close()
        self._kept.clear()

    def _session(self, artifact: Artifact, stack: ExitStack) -> Session:
        kept = self._kept.get(artifact.path)
        return stack.enter_context(self._open(artifact)) if kept is None else kept

    def _open(self, artifact: Artifact) -> Session:
        return open_session(artifact, self.target.threads, self.target.batch)
