"""The quality of a search with many workers: the hypervolume of its front after as many trials as with 16.

    python benchmarks/scaling/quality.py

The same simulated searches as in ``run.py``, without the engine's own time on the clock, with several seeds. Writes
``result_quality.md`` and ``raw_quality.csv``. It imports the engine from inside, because that is what it measures.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import moocore
import numpy as np
import pandas as pd
from rich.progress import track

from sousvit.search.archive import Archive
from sousvit.search.callbacks import Callback
from sousvit.search.executors.executor import Job, JobResult
from sousvit.search.executors.simulated import SimulatedClock, SimulatedExecutor
from sousvit.search.run import make_engine
from sousvit.search.trial import Trial
from sousvit.spaces.recipe import Recipe

sys.path.insert(0, str(Path(__file__).parents[1]))
from common.made_up import budget, figures, world
from common.provenance import provenance, write_result
from run import HERE, Seconds

WORKERS, TRIALS, SEEDS = (16, 1024), 4096, 8
#: Resamples of seeds for an interval.
RESAMPLES = 10_000


def searched(workers: int, trials: int, seed: int, path: Path) -> list[Trial]:
    """The trials of one search, in the order in which they ended."""
    shape, base, space = world()
    clock, seconds = SimulatedClock(), Seconds(path)

    def judge(job: Job) -> JobResult:
        values = figures(Recipe.from_dict(job.recipe), shape, job.fidelity)
        return JobResult(job.attempt, "complete", values, {"recover": seconds.of(job)})

    with tempfile.TemporaryDirectory() as folder:
        archive = Archive(Path(folder) / "run", writable=True)
        executor = SimulatedExecutor(base, judge, clock, workers=workers)
        asked = budget(trials, seed=seed)
        engine = make_engine(asked, archive, executor, base, shape, space, Callback(), clock, with_study=False)
        engine.run()
        archive.close()
        return archive.records


def hypervolume(trials: list[Trial]) -> float:
    """Of the front of final results that hold every limit, in units of the base's figures (accuracy: of its limit)."""
    base = world()[1].values
    goals = budget(len(trials)).goals(base)
    held = [trial.values for trial in trials if trial.is_final and goals.holds(trial.values)]
    points = [
        (one["latency"].value / base["latency"].value, one["size"].value / base["size"].value,
         one["accuracy_drop"].value / 0.05)
        for one in held
    ]  # fmt: skip
    return float(moocore.hypervolume(np.array(points), ref=[1.0, 1.0, 1.0])) if points else 0.0


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """The mean and its 95% bootstrap interval over seeds."""
    drawn = np.random.default_rng(0).choice(values, (RESAMPLES, len(values))).mean(1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(values.mean()), float(low), float(high)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trial-seconds", type=Path, default=HERE / "trial_seconds.csv")
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    given = parser.parse_args()
    marks = [given.trials // 4, given.trials // 2, given.trials]
    rows = []
    for seed in track(range(given.seeds)):
        for workers in given.workers:
            found = searched(workers, given.trials, seed, given.trial_seconds)
            rows += [
                {"workers": workers, "seed": seed, "trials": mark, "hypervolume": hypervolume(found[:mark])}
                for mark in marks
            ]
            print(rows[-3:], flush=True)
    frame = pd.DataFrame(rows)
    frame.to_csv(HERE / "raw_quality.csv", index=False, float_format="%.5g")
    lines = [f"| workers | {' | '.join(f'{mark} trials' for mark in marks)} |", "|---:|" + "---:|" * len(marks)]
    for workers in given.workers:
        own = frame[frame.workers == workers]
        cells = [interval(own[own.trials == mark].hypervolume.to_numpy()) for mark in marks]
        lines.append(f"| {workers} | " + " | ".join("{:.4f} [{:.4f}, {:.4f}]".format(*cell) for cell in cells) + " |")
    command = f"python benchmarks/scaling/quality.py {' '.join(sys.argv[1:])}".strip()
    about = f"Hypervolume of the front of what holds the limits: mean of {given.seeds} seeds, 95% interval."
    write_result(HERE / "result_quality.md", "\n".join([*provenance(command), about, "", *lines]) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
