"""The engine's own cost: asking, recording and telling with thousands of trials behind it, on simulated trials.

    python benchmarks/engine_overhead/run.py

Milliseconds a trial at several sizes of a study on disk, and how long an archive of 10,000 trials takes to answer a new
budget. Prints them and writes ``result.md``. It imports the engine from inside, because that is what it measures.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from sousvit.search.archive import Archive
from sousvit.search.budget import Budget
from sousvit.search.callbacks import Callback
from sousvit.search.executors.executor import Job, JobResult
from sousvit.search.executors.simulated import SimulatedClock, SimulatedExecutor
from sousvit.search.fidelity.learning_curve import FULL
from sousvit.search.results import choose
from sousvit.search.run import make_engine
from sousvit.search.trial import BaseRecord, Trial
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.shape import VitShape
from sousvit.spaces.space import Space

sys.path.insert(0, str(Path(__file__).parents[1]))
from common.made_up import Charged, budget, figures, world
from common.provenance import provenance, write_result

MARKS = (100, 300, 1000, 3000, 5000)
#: Calls before a mark that its figures are of.
WINDOW = 200
#: Trials that answers come from, and budgets that are answered.
ARCHIVED, ASKED = 10_000, 20
#: Seconds of a simulated trial without its training, which takes as long again.
TRIAL = 10.0
SHOWN = {"asked": "a recipe asked for", "next": "another job or none", "took": "a result recorded and told"}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=MARKS[-1])
    trials = parser.parse_args().trials
    shape, base, space = world()
    lines = provenance(
        "python benchmarks/engine_overhead/run.py" + ("" if trials == MARKS[-1] else f" --trials {trials}")
    )
    for count in dict.fromkeys((min(300, trials), trials)):
        lines += searched(count, shape, base, space)
    lines.append(f"* {answered(shape, base, space)}")
    text = "\n".join(lines) + "\n"
    write_result(Path(__file__).with_name("result.md"), text)
    print(text)


def searched(count: int, shape: VitShape, base: BaseRecord, space: Space) -> list[str]:
    """A simulated search of ``count`` trials, told as lines of Markdown."""

    def judge(job: Job) -> JobResult:
        recipe = Recipe.from_dict(job.recipe)
        seconds = {"judge": TRIAL, "recover": TRIAL * job.fidelity * recipe.trains}
        return JobResult(job.attempt, "complete", figures(recipe, shape, job.fidelity), seconds, artifact="")

    with tempfile.TemporaryDirectory() as folder:
        archive, clock = Archive(Path(folder) / "run", writable=True), SimulatedClock()
        executor = SimulatedExecutor(base, judge, clock)
        engine = make_engine(budget(count), archive, executor, base, shape, space, Callback(), clock)
        engine.begin()
        charged = Charged(engine, archive, clock)
        executor.drive(charged)
        archive.close()
    own = sum(spent for _, _, spent in charged.calls) / clock.now
    told = f"{count} trials of {TRIAL:g} s, with a full training twice that, asked for"
    lines = [f"* {told}; the engine's own time is {own:.2%} of all"]
    return lines + [f"  * at {mark}: {_told(charged, mark)}" for mark in MARKS if mark <= count]


def _told(charged: Charged, mark: int) -> str:
    """Median and 95th percentile of the calls before ``mark``, in milliseconds."""
    told = []
    for what, name in SHOWN.items():
        own = [1000 * spent for kind, known, spent in charged.calls if kind == what and known < mark][-WINDOW:]
        if own:
            told.append(f"{name} {np.median(own):.1f} (95%: {np.quantile(own, 0.95):.1f}) ms")
    return ", ".join(told)


def answered(shape: VitShape, base: BaseRecord, space: Space) -> str:
    """How long other budgets take on an archive of random recipes."""
    generator = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        archive = Archive(Path(folder) / "run", writable=True)
        archive.append("base", base=base.to_dict())
        while len(archive) < ARCHIVED:
            recipe = space.draw(generator, {})[1].fitting(shape)
            trial = Trial.pending(recipe, FULL, seed=0)
            archive.add(replace(trial, status="complete", values=figures(recipe, shape), seconds={"judge": TRIAL}))
        archive.close()
        begun = time.perf_counter()
        read = Archive(archive.folder)
        opened = 1000 * (time.perf_counter() - begun)
    spent = [seconds_for(read, other_budget(share)) for share in np.linspace(0.05, 1.0, ASKED)]
    return (
        f"{len(read)} trials: read in {opened:.0f} ms; {ASKED} other budgets answered in "
        f"{1000 * np.median(spent):.1f} ms each (median; the slowest in {1000 * max(spent):.1f} ms)"
    )


def other_budget(share: float) -> Budget:
    """Other limits and another objective; small shares leave nothing feasible, so that the nearest miss is found."""
    limits = {"accuracy_drop": 0.2 * share, "latency_ratio": share}
    asked = {"limits": limits, "optimize": ("size", "accuracy"), "prefer": {"size": 1.0, "accuracy": share}}
    return budget(ARCHIVED).model_copy(update=asked)


def seconds_for(archive: Archive, other: Budget) -> float:
    """One answer."""
    begun = time.perf_counter()
    choose(archive, other.goals(archive.base.values))
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
