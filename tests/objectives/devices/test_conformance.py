"""Every device holds the contract; the suite says what is broken in one that does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sousvit.objectives.devices.conformance import check_device
from sousvit.objectives.devices.local import LocalDevice
from sousvit.objectives.devices.open import DEVICES
from sousvit.objectives.targets.profiles import make_target
from sousvit.objectives.targets.target import Target
from sousvit.registry import load_class

TOY = load_class(f"{Path(__file__).parents[2] / 'toy_device.py'}:WhenIdle", "device")


@pytest.fixture(autouse=True)
def _on_all_cores(all_cores):
    with all_cores():
        yield


@pytest.mark.parametrize(("name", "values"), [("local", {}), ("stand-in", {"cores": 1}), ("local", {"batch": 2})])
def test_our_devices_conform(name, values):
    check_device(DEVICES.get(name), make_target({"device": name, **values}, Path()))


def test_the_device_behind_an_agent_conforms(start_agent):
    address = f"http://127.0.0.1:{start_agent().server_port}"
    check_device(DEVICES.get("agent"), make_target({"device": "board", "agent": address}, Path()))


def test_a_device_of_a_users_file_conforms_and_need_not_be_registered():
    check_device(TOY, Target(device="when_idle", patience=0))
    assert "when_idle" not in DEVICES


class Mine(LocalDevice):
    """Holds the contract; what is derived from it breaks one rule each."""

    name = "mine"


class SaysNothing(Mine):
    def facts(self):
        return {"cpu": "mine"}


class NamesObjects(Mine):
    def facts(self):
        return {**super().facts(), "place": Path()}


class ForgetsTheBaseline(Mine):
    def time(self, artifacts, baseline, plan, with_baseline=False):
        return super().time(artifacts, baseline, plan)


class CountsBackwards(Mine):
    def time(self, *arguments, **named):
        return {name: replace(one, p99_ms=-1.0) for name, one in super().time(*arguments, **named).items()}


class ForgetsTheBatch(Mine):
    def time(self, *arguments, **named):
        return {name: replace(one, batch=7) for name, one in super().time(*arguments, **named).items()}


class FindsNoMemory(Mine):
    def probe(self, artifact):
        return replace(super().probe(artifact), memory_bytes=0)


class MakesEnergyUp(Mine):
    def facts(self):
        return {**super().facts(), "energy": False}

    def energy_mj(self, artifact, plan=None):
        return 1.0


class Panics(Mine):
    def probe(self, artifact):
        if artifact.path.stat().st_size < 100:
            raise OSError("no model")
        return super().probe(artifact)


class Refuses(Mine):
    def facts(self):
        return {**super().facts(), "runtimes": {}}


class Unfinished(Mine):
    name = "Not Mine"


class NeedsAnAgent(Mine):
    @classmethod
    def misfit(cls, target):
        return "a device of mine has an agent", "none", "name it"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (SaysNothing, "mine: facts must say cores as device_facts"),
        (NamesObjects, "facts must be plain values"),
        (ForgetsTheBaseline, r"time \(with_baseline=True\) must give timings of"),
        (CountsBackwards, "0 < p50 <= p95 <= p99 must hold"),
        (ForgetsTheBatch, "batch must be the target's, 1, not 7"),
        (FindsNoMemory, "memory_bytes must be above 0"),
        (MakesEnergyUp, "energy_mj of a device whose facts say energy: False must raise TrialError"),
        (Panics, "probe of a file that is no model must raise TrialError, not OSError"),
        (Refuses, "must be what its target says.*no onnxruntime there"),
        (Unfinished, "the name of a device is snake_case"),
        (NeedsAnAgent, "mine: give a target that asks for it: a device of mine has an agent"),
        (object, "a device derives from"),
    ],
)
def test_a_device_that_breaks_a_rule_is_told_which(kind, words):
    with pytest.raises(AssertionError, match=words):
        check_device(kind)
