"""The number of workers that pays off: the engine with 1 to 4,096 simulated workers whose trials take recorded seconds.

    python benchmarks/scaling/run.py

The engine is the real one, and its own time (its process's, and waits for the disk) passes on the clock: while it
decides, a free worker waits. Writes
``result.md`` and ``raw.csv``: the share of time in which workers are busy until the last job is handed out (what comes
after it is the end of a search, not its speed), and the engine's milliseconds a trial. It imports the engine from
inside, because that is what it measures.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from pathlib import Path

import pandas as pd
from rich.progress import track

from sousvit.search.archive import Archive
from sousvit.search.callbacks import Callback
from sousvit.search.executors.executor import Job, JobResult
from sousvit.search.executors.simulated import SimulatedClock, SimulatedExecutor
from sousvit.search.fidelity.learning_curve import FULL
from sousvit.search.run import make_engine
from sousvit.spaces.recipe import Recipe

sys.path.insert(0, str(Path(__file__).parents[1]))
from common.made_up import Charged, budget, figures, world
from common.provenance import provenance, write_result

HERE = Path(__file__).parent
WORKERS = (1, 4, 16, 64, 256, 512, 1024, 2048, 4096)
#: Trials of a search: so many for every worker, but not fewer than the second figure.
TRIALS_EACH, FEWEST = 4, 200


class Seconds:
    """Recorded durations, drawn in turn: of trained trials at a low rung and in full, and of those not trained."""

    def __init__(self, path: Path) -> None:
        with path.open() as stream:
            rows = [(row["status"], float(row["fidelity"]), float(row["seconds"])) for row in csv.DictReader(stream)]
        done = [(fidelity, seconds) for status, fidelity, seconds in rows if status == "complete"]
        self._low = [seconds for fidelity, seconds in done if fidelity < FULL]
        self._full = [seconds for fidelity, seconds in done if fidelity >= FULL]
        self._count = 0

    def of(self, job: Job) -> float:
        """The next duration for a job of this kind."""
        self._count += 1
        among = self._low if job.fidelity < FULL else self._full
        return among[self._count % len(among)]


def measure(workers: int, path: Path) -> dict[str, float]:
    """One search with so many workers."""
    shape, base, space = world()
    trials = max(FEWEST, TRIALS_EACH * workers)
    clock, seconds = SimulatedClock(), Seconds(path)

    def judge(job: Job) -> JobResult:
        values = figures(Recipe.from_dict(job.recipe), shape)
        return JobResult(job.attempt, "complete", values, {"recover": seconds.of(job)}, artifact="")

    with tempfile.TemporaryDirectory() as folder:
        archive = Archive(Path(folder) / "run", writable=True)
        executor = SimulatedExecutor(base, judge, clock, workers=workers)
        engine = make_engine(budget(trials), archive, executor, base, shape, space, Callback(), clock)
        engine.begin()
        charged = Charged(engine, archive, clock)
        executor.drive(charged)
        archive.close()
    busy = executor.busy_until(charged.last_start) / (workers * charged.last_start)
    return {
        "workers": workers,
        "trials": trials,
        "hours": clock.now / 3600,
        "busy": busy,
        "engine_ms_per_trial": 1000 * sum(spent for _, _, spent in charged.calls) / trials,
        "engine_busy": sum(spent for _, _, spent in charged.calls) / charged.last_start,
        "longest_ms": 1000 * max(spent for _, _, spent in charged.calls),
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--trial-seconds", type=Path, default=HERE / "trial_seconds.csv", help="status, fidelity, seconds"
    )
    parser.add_argument("--most", type=int, default=WORKERS[-1])
    given = parser.parse_args()
    rows = []
    for workers in track([count for count in WORKERS if count <= given.most]):
        rows.append(measure(workers, given.trial_seconds))
        print(rows[-1], flush=True)
    frame = pd.DataFrame(rows)
    frame.to_csv(HERE / "raw.csv", index=False, float_format="%.4g")
    lines = [
        "| workers | trials | hours | workers busy | engine, ms a trial | engine busy | its longest call, ms |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['workers']:.0f} | {row['trials']:.0f} | {row['hours']:.2f} | {row['busy']:.1%} "
        f"| {row['engine_ms_per_trial']:.1f} | {row['engine_busy']:.1%} | {row['longest_ms']:.0f} |"
        for row in rows
    ]
    command = "python benchmarks/scaling/run.py" + ("" if given.most == WORKERS[-1] else f" --most {given.most}")
    write_result(HERE / "result.md", "\n".join([*provenance(command), *lines]) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
