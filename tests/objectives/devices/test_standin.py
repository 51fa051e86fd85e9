"""Stand-ins: what they promise of cores and memory must hold for the process that really runs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from sousvit.errors import TrialError, UserError
from sousvit.objectives.devices import measure as bench
from sousvit.objectives.devices import process
from sousvit.objectives.devices.open import open_device
from sousvit.objectives.devices.protocol import Request
from sousvit.objectives.targets.profiles import load_target
from sousvit.objectives.targets.target import Target
from sousvit.objectives.timing import TimingPlan

PLAN = TimingPlan(min_seconds=0.1, max_seconds=0.3, min_groups=3, round_seconds=0.002, warmup=1)
linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux pins processes")


@pytest.fixture(autouse=True)
def _on_all_cores(all_cores: Any) -> Iterator[None]:
    with all_cores():
        yield


def standin(**values: Any) -> Target:
    return Target.model_validate({"device": "stand-in", **values})


@linux
def test_the_process_is_pinned_to_the_last_cores(subject: Any) -> None:
    request = Request("time", {"base": subject.artifact}, "base", plan=PLAN, with_baseline=True, cores=1)
    assert process.measure(request)["affinity"] == sorted(os.sched_getaffinity(0))[-1:]


@linux
def test_every_thread_of_the_process_is_pinned(subject: Any) -> None:
    """Seen from outside: while it runs, no thread may use another core."""
    plan = TimingPlan(min_seconds=1.5, max_seconds=2.0)
    request = Request("time", {"base": subject.artifact}, "base", threads=1, plan=plan, with_baseline=True, cores=1)
    seen: list[set[int]] = []
    before = {child.pid for child in psutil.Process().children()}
    process.measure(request, lambda: _look(seen, before))
    running = seen[len(seen) // 2 :]
    assert running and all(cores == set(sorted(os.sched_getaffinity(0))[-1:]) for cores in running)


def _look(seen: list[set[int]], before: set[int]) -> bool:
    """Note the cores of the measuring process; other processes of the test session may run where they like."""
    for child in psutil.Process().children():
        if child.pid in before or "resource_tracker" in " ".join(child.cmdline()):
            continue
        cores: set[int] = set()
        for thread in child.threads():
            cores |= os.sched_getaffinity(thread.id)
        seen.append(cores)
    return True


@linux
def test_more_cores_than_there_are_is_told(subject: Any) -> None:
    with pytest.raises(TrialError, match="cores are wanted"):
        open_device(standin(cores=1000)).probe(subject.artifact)
    with pytest.raises(UserError, match="as many cores"):
        open_device(standin(cores=1000)).check()
    before = os.sched_getaffinity(0)
    assert bench.pin(None) == sorted(before)


def test_the_memory_limit_holds(subject: Any) -> None:
    target = load_target("standin-1core-128mb").model_copy(update={"batch": 4096})
    device = open_device(target)
    with pytest.raises(TrialError, match="the target has 128 MB") as caught:
        device.admit(subject.artifact)
    found = re.search(r"needs ([\d.]+) MB", str(caught.value))
    assert found and float(found[1]) >= 128
    unlimited = open_device(target.model_copy(update={"memory": None}))
    assert unlimited.probe(subject.artifact).process_bytes > 128e6


def test_a_process_above_its_limit_is_stopped_early(subject: Any) -> None:
    request = Request("probe", {"base": subject.artifact}, "base", batch=64, memory_bytes=20_000_000)
    with pytest.raises(TrialError, match=r"out of memory.*has 20 MB"):
        process.measure(request)


def test_what_fits_is_measured(subject: Any) -> None:
    device = open_device(load_target("standin-1core-512mb"))
    facts = device.check()
    assert facts["standin"] == {"cores": 1, "memory_mb": 512.0}
    device.admit(subject.artifact)
    found = device.probe(subject.artifact)
    assert device.probe(subject.artifact) is found, "measured once for the same content"
    assert found.memory_bytes < found.process_bytes < 512e6
    timing = device.time({"half": subject.artifact, "base": subject.base.artifact}, "base", PLAN)["half"]
    assert 0 < timing.ratio_low <= timing.ratio <= timing.ratio_high


def test_nobody_waits_for_an_unwanted_measurement(subject: Any) -> None:
    request = Request("time", {"base": subject.artifact}, "base", plan=TimingPlan(20, 30), with_baseline=True)
    wanted = iter([True, False])
    with pytest.raises(process.UnwantedError):
        process.measure(request, lambda: next(wanted))
