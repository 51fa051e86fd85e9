"""The conformance suite that every device must pass, ours in our tests and a user's in theirs.

sousvit.check_device(WhenIdle)
"""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import fields, replace
from pathlib import Path

from sousvit.errors import UserError
from sousvit.objectives.devices.device import Device
from sousvit.objectives.devices.open import DEVICES, open_device
from sousvit.objectives.memory_probe import Probe
from sousvit.objectives.runtimes.conformance import refuses
from sousvit.objectives.targets.profiles import make_target
from sousvit.objectives.targets.target import Target
from sousvit.objectives.timing import Timing, TimingPlan
from sousvit.registry import on_trial
from sousvit.spaces.conformance import exported, tiny_context, tiny_vit
from sousvit.spaces.export.artifact import Artifact
from sousvit.spaces.recipe import Recipe

#: Long enough for figures, not for good ones.
SHORT = TimingPlan(min_seconds=0.05, max_seconds=0.1, min_groups=3, round_seconds=0.002, warmup=1)
#: What a record of a device must say.
FACTS: dict[str, type | tuple[type, ...]] = {
    "cpu": str,
    "cores": int,
    "memory_gb": (int, float),
    "runtimes": dict,
    "energy": bool,
}


def check_device(device: type[Device], target: Target | None = None) -> None:
    """Hold a device to the contract: it measures two tiny Vision Transformers.

    Args:
        device: its class; it need not be registered.
        target: that asks for it, for instance with the address of an agent; by default ``{device: NAME}``.

    Raises:
        AssertionError: says which rule is broken.
    """
    with on_trial(device, DEVICES) as held, tempfile.TemporaryDirectory() as folder:
        try:
            target = target or make_target({"device": held.name}, Path())
            opened = open_device(target)
        except UserError as error:
            raise AssertionError(f"{held.name}: give a target that asks for it: {error}") from error
        artifacts = {}
        for name, depth in (("base", 2), ("small", 1)):
            recipe = Recipe((), target.runtimes[0])
            artifacts[name] = exported(tiny_vit(depth), recipe, tiny_context(), Path(folder) / name)
        try:
            _check(opened, artifacts)
        finally:
            opened.close()


def _check(device: Device, artifacts: dict[str, Artifact]) -> None:
    name, (base, small) = type(device).name, artifacts.values()
    facts = _check_facts(device)
    device.admit(base)
    device.keep(base)
    for with_baseline, timed in ((False, {"small"}), (True, {"base", "small"})):
        found = device.time(artifacts, "base", SHORT, with_baseline)
        _check_timings(device, found, timed, f"with_baseline={with_baseline}")
    _check_timings(device, device.time({"base": base}, "base", SHORT), {"base"}, "the baseline alone")
    probe = device.probe(small)
    assert isinstance(probe, Probe), f"{name}: probe must return a Probe, not {probe!r}"
    for field in fields(Probe):
        value = getattr(probe, field.name)
        assert math.isfinite(value) and value > 0, f"{name}: probe: {field.name} must be above 0, not {value!r}"
    if facts["energy"]:
        energy = device.energy_mj(small, SHORT)
        assert math.isfinite(energy) and energy > 0, f"{name}: energy_mj must be above 0, not {energy!r}"
    else:
        refuses(f"{name}: energy_mj of a device whose facts say energy: False", lambda: device.energy_mj(small, SHORT))
    _check_refusals(device, base)


def _check_facts(device: Device) -> dict[str, object]:
    name, facts = type(device).name, device.facts()
    for key, kind in FACTS.items():
        given = facts.get(key) if isinstance(facts, dict) else None
        assert isinstance(given, kind), f"{name}: facts must say {key} as device_facts() does, not {given!r}"
    try:
        plain = json.loads(json.dumps(facts))
    except TypeError as error:
        raise AssertionError(f"{name}: facts must be plain values, as JSON has them: {error}") from error
    assert plain == facts, f"{name}: facts must be plain values, as JSON has them: {facts}"
    try:
        device.check()
    except UserError as error:
        raise AssertionError(f"{name}: it must be what its target says: {error}") from error
    return facts


def _check_timings(device: Device, found: dict[str, Timing], timed: set[str], case: str) -> None:
    name = f"{type(device).name}: time ({case})"
    assert isinstance(found, dict) and set(found) == timed, f"{name} must give timings of {timed}, not {found!r}"
    for timing in found.values():
        assert isinstance(timing, Timing), f"{name} must give each as a Timing, not {timing!r}"
        ordered = 0 < timing.p50_ms <= timing.p95_ms <= timing.p99_ms < math.inf
        assert ordered, f"{name}: 0 < p50 <= p95 <= p99 must hold of {timing}"
        inside = 0 < timing.ratio_low <= timing.ratio <= timing.ratio_high < math.inf
        assert inside, f"{name}: the ratio must lie in its interval, above 0: {timing}"
        batch = device.target.batch
        assert timing.batch == batch, f"{name}: batch must be the target's, {batch}, not {timing.batch}"


def _check_refusals(device: Device, artifact: Artifact) -> None:
    """A file that no runtime opens is a failed trial, not the end of the search."""
    name = type(device).name
    with tempfile.TemporaryDirectory() as folder:
        broken = replace(artifact, folder=Path(folder))
        broken.path.write_bytes(b"nothing")
        both = {"base": artifact, "broken": broken}
        refuses(f"{name}: time of a file that is no model", lambda: device.time(both, "base", SHORT))
        refuses(f"{name}: probe of a file that is no model", lambda: device.probe(broken))
