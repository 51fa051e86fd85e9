"""An artifact's latency, size and memory on a target, beside another's where one is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sousvit.errors import TrialError, UserError
from sousvit.objectives.devices.isolated import open_isolated
from sousvit.objectives.objective import Measurement
from sousvit.objectives.runtimes.runtime import check_artifact
from sousvit.objectives.targets.target import Target
from sousvit.objectives.timing import CAREFUL
from sousvit.spaces.export.artifact import Artifact


@dataclass(frozen=True)
class Measured:
    """What an artifact was measured to cost.

    ``figures`` are ``latency_p50_ms`` (with its 95% interval), ``latency_p95_ms``, ``latency_p99_ms``,
    ``throughput_images_s``, ``size_mb``, ``memory_mb``, ``load_time_ms``, ``energy_mj`` where the machine can tell;
    with a baseline, timed in the same groups, also ``baseline_p50_ms``, ``ratio`` (artifact / baseline, with its 95%
    interval), ``speed_up`` and ``size_ratio``. Where the machine was busy, it is ``noisy``: measure again.
    """

    artifact: Path
    runtime: str
    target: str
    machine: str
    figures: Mapping[str, Measurement]
    noisy: bool

    def __getitem__(self, name: str) -> Measurement:
        return self.figures[name]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        where = {"runtime": self.runtime, "target": self.target, "machine": self.machine}
        warning = {"warning": "noisy: the machine was busy, measure again"} if self.noisy else {}
        return {"artifact": str(self.artifact), "figures": {**where, **plain(self.figures), **warning}}


def plain(figures: Mapping[str, Measurement]) -> dict[str, Any]:
    """Numbers, or ``[value, low, high]`` where there is an interval."""
    return {name: one.value if one.low is None else [one.value, one.low, one.high] for name, one in figures.items()}


@contextmanager
def must_run() -> Iterator[None]:
    """An artifact of the user's that fails in here is a wrong one.

    Raises:
        UserError: it failed.
    """
    try:
        yield
    except TrialError as error:
        rule = "an artifact runs in its runtime, within the target's timeout and memory"
        raise UserError(rule, error, "name another, or give the target more") from error


def measure_artifact(artifact: Artifact, baseline: Artifact | None, target: Target) -> Measured:
    """Measure on the target's device, interleaved with the baseline.

    Raises:
        UserError: an artifact is not what it may be, or does not run; the device cannot be used; or the baseline takes
            another input.
    """
    other = baseline or artifact
    for one in (artifact, other):
        check_artifact(one)
        if one.uint8:
            rule = "an artifact that is measured takes normalised images, as every other does"
            raise UserError(rule, f"{one.folder}, whose graph normalises", "measure the bundle without folded steps")
    if other.input_shape != artifact.input_shape:
        raise UserError(
            "artifact and baseline take the same input",
            f"{artifact.input_shape} and {other.input_shape}",
            "compare others",
        )
    device = open_isolated(target)
    facts = device.check()
    with closing(device), must_run():
        device.admit(artifact)
        pair = {"baseline": other} if baseline is None else {"artifact": artifact, "baseline": other}
        timing = device.time(pair, "baseline", CAREFUL)["baseline" if baseline is None else "artifact"]
        probe = device.probe(artifact)
        energy = device.energy_mj(artifact, CAREFUL) if facts["energy"] else None
    tails = {"latency_p95_ms": Measurement(timing.p95_ms), "latency_p99_ms": Measurement(timing.p99_ms)}
    figures = {
        "latency_p50_ms": Measurement(timing.p50_ms, timing.p50_low_ms, timing.p50_high_ms),
        **(tails if timing.tails else {}),
        "throughput_images_s": Measurement(1e3 * timing.batch / timing.p50_ms),
        "size_mb": Measurement(artifact.size_bytes / 1e6),
        "memory_mb": Measurement(probe.memory_bytes / 1e6),
        "load_time_ms": Measurement(probe.load_ms),
    }
    if energy is not None:
        figures["energy_mj"] = Measurement(energy)
    if baseline is not None:
        figures["baseline_p50_ms"] = Measurement(timing.baseline_p50_ms)
        figures["ratio"] = Measurement(timing.ratio, timing.ratio_low, timing.ratio_high)
        figures["speed_up"] = Measurement(timing.speedup)
        figures["size_ratio"] = Measurement(artifact.size_bytes / baseline.size_bytes)
    machine = f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gb']} GB"
    return Measured(artifact.folder, artifact.runtime, str(target), machine, figures, timing.noisy)
