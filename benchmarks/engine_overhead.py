"""What the engine itself costs: asking, recording and telling with thousands of trials behind it, on simulated trials.

    python benchmarks/engine_overhead.py

Prints milliseconds a trial at several sizes of a study on disk, and how long an archive takes to answer a new budget.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import timm

from sousvit.search.answer import choose
from sousvit.search.archive import Archive
from sousvit.search.budget import Budget
from sousvit.search.executors.executor import Job, Outcome
from sousvit.search.executors.simulated import SimulatedExecutor
from sousvit.search.record import BaseRecord, Value
from sousvit.search.run import make_engine
from sousvit.search.watcher import Watcher
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.shape import VitShape
from sousvit.spaces.space import make_space, read_space

MARKS = (100, 300, 1000, 3000, 5000)
WINDOW = 50


def budget(trials: int) -> Budget:
    """Several limits, three objectives."""
    return Budget.model_validate(
        {
            "model": {"name": "vit_tiny_patch16_224"},
            "data": {"format": "idx", "train": "train-images"},
            "limits": {"accuracy_drop": 0.05, "latency_ratio": 0.9},
            "optimize": ["latency", "size", "accuracy"],
            "search": {"trials": trials, "explore_fidelity": 1.0},
        }
    )


def made_up(recipe: Recipe, shape: VitShape) -> dict[str, Value]:
    """Figures that follow from the shape, with some noise."""
    small = recipe.reshape(shape)
    cost = small.macs() / shape.macs()
    noise = random.Random(recipe.hash).uniform(-0.01, 0.01)
    accuracy = 0.9 - 0.2 * (1 - cost) ** 2 + noise
    values = {
        "accuracy": accuracy, "accuracy_drop": 0.9 - accuracy, "latency": 10 * cost, "latency_ratio": cost,
        "size": small.params() * recipe.bytes_per_weight / 1e6,
        "macs": small.macs() / 1e6, "params": small.params() / 1e6,
    }  # fmt: skip
    return {name: Value(value) for name, value in values.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=MARKS[-1])
    trials = parser.parse_args().trials
    shape = VitShape.of(timm.create_model("deit_tiny_patch16_224"))
    base = BaseRecord(made_up(Recipe(), shape), asdict(shape), {})
    space, _ = make_space(read_space("all"), shape, ("onnxruntime", "openvino"))
    ends: list[float] = []

    def judge(job: Job) -> Outcome:
        values = made_up(Recipe.from_dict(job.recipe), shape)
        return Outcome(job.attempt, "complete", values, {"judge": 10.0}, artifact="")

    for count in dict.fromkeys((min(300, trials), trials)):
        with tempfile.TemporaryDirectory() as folder:
            ends.clear()
            archive = Archive(Path(folder) / "run", writable=True)
            watcher = Watcher(trial=lambda record, counts: ends.append(time.perf_counter()))
            executor = SimulatedExecutor(base, judge)
            engine = make_engine(budget(count), archive, executor, base, shape, space, archive.folder, watcher)
            engine.run()
            for mark in (mark for mark in MARKS if mark <= len(ends)):
                window = ends[max(0, mark - WINDOW - 1) : mark]
                own = [1000 * (after - before) for before, after in itertools.pairwise(window)]
                print(f"{count} trials asked for, at {mark}: {statistics.median(own):.1f} ms a trial")
            _answers(archive, trials)
            archive.close()


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
