"""Energy is read from the kernel's counters where there are any; the folder here has the kernel's own form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sousvit.errors import TrialError, UserError
from sousvit.objectives.devices.open import open_device
from sousvit.objectives.energy import energy_mj, find_meter
from sousvit.objectives.objective import get_objective
from sousvit.objectives.runtimes.runtime import Session
from sousvit.objectives.targets.target import Target


def zone(root: Path, number: str, name: str, energy: int = 0, limit: int = 10**9) -> Path:
    folder = root / f"intel-rapl:{number}"
    folder.mkdir()
    for file, content in (("name", name), ("energy_uj", energy), ("max_energy_range_uj", limit)):
        (folder / file).write_text(f"{content}\n")
    return folder / "energy_uj"


class Burning(Session):
    """Every run takes 2 mJ of each counter."""

    def __init__(self, *counters: Path, limit: int = 10**9) -> None:
        self.counters, self.limit = counters, limit

    def run(self, batch: np.ndarray) -> np.ndarray:
        for path in self.counters:
            path.write_text(str((int(path.read_text()) + 2000) % (self.limit + 1)))
        return np.zeros((len(batch), 2), np.float32)


def test_packages_are_added_up_and_their_parts_left_out(tmp_path: Path) -> None:
    counters = [zone(tmp_path, "0", "package-0"), zone(tmp_path, "1", "package-1"), zone(tmp_path, "0:0", "core")]
    meter = find_meter(tmp_path)
    assert meter is not None and [path for path, _ in meter.counters] == counters[:2]
    assert energy_mj(Burning(*counters), np.zeros((1, 1, 2, 2), np.float32), 0.01, meter) == pytest.approx(4.0)


def test_a_counter_that_starts_over_is_understood(tmp_path: Path) -> None:
    counter = zone(tmp_path, "0", "package-0", energy=9_999_000, limit=9_999_999)
    meter = find_meter(tmp_path)
    assert meter is not None
    burning = Burning(counter, limit=9_999_999)
    assert energy_mj(burning, np.zeros((1, 1, 2, 2), np.float32), 0.01, meter) == pytest.approx(2.0)


def test_no_counter_is_no_figure(tmp_path: Path, subject: Any) -> None:
    assert find_meter(tmp_path) is None
    broken = zone(tmp_path, "0", "package-0")
    broken.write_text("")
    assert find_meter(tmp_path) is None
    if find_meter() is None:
        device = open_device(Target())
        with pytest.raises(UserError, match="energy must be measurable"):
            device.check(["energy_ratio"])
        with pytest.raises(TrialError, match="no energy counter"):
            device.energy_mj(subject.artifact)


def test_only_what_a_target_decides_has_a_target() -> None:
    one = get_objective("latency_ratio@board")
    assert one.name == "latency_ratio@board" and one.unit == "ratio" and one.direction == "minimize"
    assert get_objective("throughput@board").direction == "maximize"
    for wrong in ("accuracy@board", "size_ratio@board", "latency@"):
        with pytest.raises(UserError):
            get_objective(wrong)
