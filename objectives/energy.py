"""Energy of inference, where the machine counts it: Linux's RAPL counters under ``/sys/class/powercap``.

The counter is of the whole CPU package, idle power and everything else that runs included, so a figure means
something on an otherwise idle machine only. Where no counter can be read there is no figure: none is estimated.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from sousvit.objectives.objective import Direction, Measurement, Objective, Stage, Subject

if TYPE_CHECKING:
    import numpy as np

    from sousvit.objectives.runtimes.runtime import Session

POWERCAP = Path("/sys/class/powercap")
#: The message where a device has no energy counter.
ABSENT = "no energy counter can be read there (Linux RAPL, /sys/class/powercap/*/energy_uj, often for root only)"


@dataclass(frozen=True)
class Meter:
    """Energy counters of the CPU packages: files with microjoules, and the value after which each starts over."""

    counters: tuple[tuple[Path, int], ...]

    def read(self) -> tuple[int, ...]:
        """Every counter now, in microjoules."""
        return tuple(int(path.read_text()) for path, _ in self.counters)

    def joules(self, before: tuple[int, ...], after: tuple[int, ...]) -> float:
        """Energy between two values of the counters, each of which may have started over once."""
        ranges = [limit for _, limit in self.counters]
        return sum((b - a) % (limit + 1) for a, b, limit in zip(before, after, ranges, strict=True)) / 1e6


def find_meter(root: Path = POWERCAP) -> Meter | None:
    """The package counters under ``root``, or None where none can be read."""
    found = []
    for zone in sorted(root.glob("*-rapl:*")):
        try:
            if not (zone / "name").read_text().startswith("package"):
                continue  # parts of a package would be counted twice
            int((zone / "energy_uj").read_text())
            found.append((zone / "energy_uj", int((zone / "max_energy_range_uj").read_text())))
        except (OSError, ValueError):
            continue
    return Meter(tuple(found)) if found else None


def energy_mj(session: Session, batch: np.ndarray, seconds: float, meter: Meter) -> float:
    """Millijoules of one inference of ``batch`` ``[B, C, H, W]``, over at least ``seconds`` after a warm-up."""
    session.run(batch)
    before, begun, runs = meter.read(), time.perf_counter(), 0
    while runs < 3 or time.perf_counter() - begun < seconds:
        session.run(batch)
        runs += 1
    return 1e3 * meter.joules(before, meter.read()) / runs


class Energy(Objective):
    """Millijoules of one inference of the target's batch, of the whole CPU package."""

    name: ClassVar[str] = "energy"
    unit: ClassVar[str] = "mJ"
    direction: ClassVar[Direction] = "minimize"
    stage: ClassVar[Stage] = Stage.ARTIFACT
    summary: ClassVar[str] = "energy of a batch on the target, where it has RAPL counters"
    per_target: ClassVar[bool] = True

    def measure(self, subject: Subject) -> Measurement:
        return Measurement(subject.energy_mj)
