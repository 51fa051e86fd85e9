"""What the engine itself costs: asking, recording and telling with thousands of trials behind it, on simulated trials.

    python benchmarks/engine_overhead.py

Prints milliseconds a trial at several sizes of a study on disk, and how long an archive takes to answer a new budget.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from made_up import Charged, budget, figures, world

from sousvit.search.answer import choose
from sousvit.search.archive import Archive
from sousvit.search.budget import Budget
from sousvit.search.executors.executor import Job, Outcome
from sousvit.search.executors.simulated import SimulatedClock, SimulatedExecutor
from sousvit.search.record import BaseRecord
from sousvit.search.run import make_engine
from sousvit.search.watcher import Watcher
from sousvit.spaces.recipe import Recipe

MARKS = (100, 300, 1000, 3000, 5000)
#: Calls before a mark that its figures are of.
WINDOW = 200
#: Seconds of a simulated trial.
TRIAL = 10.0
SHOWN = {"asked": "a recipe asked for", "next": "another job or none", "took": "a result recorded and told"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=MARKS[-1])
    trials = parser.parse_args().trials
    shape, base, space = world()

    def judge(job: Job) -> Outcome:
        values = figures(Recipe.from_dict(job.recipe), shape)
        return Outcome(job.attempt, "complete", values, {"judge": TRIAL}, artifact="")

    for count in dict.fromkeys((min(300, trials), trials)):
        with tempfile.TemporaryDirectory() as folder:
            archive, clock = Archive(Path(folder) / "run", writable=True), SimulatedClock()
            executor = SimulatedExecutor(base, judge, clock)
            asked = budget(count, explore_fidelity=1.0)
            engine = make_engine(asked, archive, executor, base, shape, space, archive.folder, Watcher(), clock)
            engine.begin()
            charged = Charged(engine, archive, clock)
            executor.drive(charged)
            print(f"{count} trials asked for; the engine's own time is {_own(charged) / clock.now:.2%} of all")
            for mark in (mark for mark in MARKS if mark <= count):
                print(f"  at {mark}: {_told(charged, mark)}")
            _answers(archive, trials)
            archive.close()


def _own(charged: Charged) -> float:
    return sum(spent for _, _, spent in charged.calls)


def _told(charged: Charged, mark: int) -> str:
    """Median and 95th percentile of the calls before ``mark``, in milliseconds."""
    told = []
    for what, name in SHOWN.items():
        own = [1000 * spent for kind, known, spent in charged.calls if kind == what and known < mark][-WINDOW:]
        if own:
            told.append(f"{name} {np.median(own):.1f} (95%: {np.quantile(own, 0.95):.1f}) ms")
    return ", ".join(told)


def _answers(archive: Archive, trials: int) -> None:
    begun = time.perf_counter()
    read = Archive(archive.folder)
    opened = time.perf_counter()
    other = budget(trials).model_copy(update={"limits": {"accuracy_drop": 0.02}, "optimize": {"size": 1.0}})
    answer = choose_from(read, other)
    print(f"{len(read)} trials: read in {1000 * (opened - begun):.0f} ms, answered in {answer:.1f} ms")


def choose_from(archive: Archive, other: Budget) -> float:
    """Milliseconds for one answer."""
    archive.base = archive.base or BaseRecord({}, {}, {})
    begun = time.perf_counter()
    choose(archive, other.hard_limits, other.optimize)
    return 1000 * (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
