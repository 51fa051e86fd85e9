"""The wait for a run of 10,000 trials: resuming it, its report, its recipe for another budget, its study.

    python benchmarks/archive_at_scale/run.py

The run is made first: the embedded example's budget in the whole default space, searched on simulated trials whose
figures are as many and as long as those of a real one (``--keep FOLDER`` keeps it, or takes one that was kept). Then
each question is asked in a process of its own, three times: once of a run of a few trials, which loads what it
imports, and once of the large one; what the latter takes is told, the least of three. Writes ``result.md`` and
``raw.csv``. It imports the search from inside, because no command simulates trials.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sousvit.models.load import load
from sousvit.objectives.objective import Measurement
from sousvit.search.budget import Budget
from sousvit.search.executors.executor import Job, JobResult, MakeTable, Verify
from sousvit.search.executors.simulated import SimulatedClock, SimulatedExecutor
from sousvit.search.results import FinalTable, Row
from sousvit.search.run import search
from sousvit.search.trial import BaseRecord
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.shape import VitShape

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import made_up
from common.provenance import provenance, write_result

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "fashion-mnist" / "budget.yaml"
#: Trials of the run that is asked, and of the one that is asked before it.
TRIALS, FEW = 10_000, 24
#: Seconds of a simulated trial.
SECONDS = {"gate": 1.5, "build": 3.0, "export": 0.5, "judge": 1.0}
#: What a user waits for.
ASKED = {
    "open": "`sousvit.open_run`",
    "recipe": "`sousvit recipe RUN --prefer size`",
    "report": "`sousvit report RUN`",
    "finished": "`sousvit resume RUN`, finished: its answer and its report",
    "resumed": "`sousvit resume RUN`, until the next trial begins, without loading the model",
    "study": "its study by Optuna: `load_study(...).get_trials()`",
}
REPEATED = 3


def figures(recipe: Recipe, shape: VitShape, fidelity: float = 1.0) -> dict[str, Measurement]:
    """Figures as a real trial has them: eighteen, six with an interval."""
    found = made_up.figures(recipe, shape, fidelity)
    noise = random.Random(recipe.hash)

    def around(value: float, width: float) -> Measurement:
        return Measurement(value, value - width * noise.uniform(0.5, 1), value + width * noise.uniform(0.5, 1))

    accuracy, latency = found["accuracy"].value, found["latency"].value
    found |= {"accuracy": around(accuracy, 0.02), "accuracy_drop": around(found["accuracy_drop"].value, 0.01)}
    found |= {"latency": around(latency, 0.01), "latency_ratio": around(found["latency_ratio"].value, 0.002)}
    found |= {"latency_p95": Measurement(latency * 1.1), "latency_p99": Measurement(latency * 1.9)}
    found["throughput"] = around(1000 / latency, 10)
    found["eer"] = Measurement((found["latency_ratio"].value + found["size"].value / shape.params() * 1e6 / 4) / 2)
    base = {"latency_p95": 11.0, "latency_p99": 19.0, "macs": shape.macs() / 1e6, "params": shape.params() / 1e6}
    base |= {"size": shape.params() * 4 / 1e6, "eer": 1.0}
    found |= {f"{name}_ratio": Measurement(found[name].value / value) for name, value in base.items()}
    found["throughput_ratio"] = around(found["throughput"].value / 100, 0.02)
    return found


def budget(trials: int) -> Budget:
    """The embedded example's, in the whole default space."""
    asked = Budget.read(EXAMPLE, trials=trials)
    return asked.model_copy(update={"space": "default", "search": asked.search.model_copy(update={"time": None})})


def make_run(folder: Path, trials: int, begun: Callable[[], None] | None = None) -> None:
    """Search in ``folder`` until it has so many trials, and answer; ``begun`` is called before the next trial."""
    asked = budget(trials)
    shape = vit_shape(load(asked.model).module)
    machine = {"cpu": "simulated", "cores": 1, "flags": [], "versions": {}}
    base = BaseRecord(figures(Recipe(), shape), asdict(shape), machine)

    def judge(job: Job) -> JobResult:
        recipe = Recipe.from_dict(job.recipe)
        seconds = SECONDS | {"recover": 10.0 * job.fidelity * recipe.trains}
        return JobResult(job.attempt, "complete", figures(recipe, shape, job.fidelity), seconds)

    def table(request: MakeTable) -> FinalTable:
        rows = [("base", Recipe().to_dict()), ("recipe", request.recipe)]
        return FinalTable(tuple(Row(name, one, figures(Recipe.from_dict(one), shape), name) for name, one in rows))

    def make(asked: Budget, place: Path) -> SimulatedExecutor:
        return _Told(base, judge, SimulatedClock(), answers, begun=begun)

    answers = {Verify: lambda request: figures(Recipe.from_dict(request.recipe), shape), MakeTable: table}
    search(asked, folder, make, clock=SimulatedClock())


class _Told(SimulatedExecutor):
    """An executor that says when it starts, and when the first job comes."""

    def __init__(self, *given: Any, begun: Callable[[], None] | None) -> None:
        super().__init__(*given)
        self._begun = begun

    def submit(self, job: Job) -> None:
        if self._begun is not None:
            self._begun()
        super().submit(job)


class _Begun(Exception):
    """The next trial begins."""


def ask(what: str, folder: Path, trials: int) -> None:
    """Do what a user waits for."""
    import sousvit

    if what == "open":
        sousvit.open_run(folder)
    elif what == "recipe":
        sousvit.open_run(folder).answer(prefer={"size": 1.0})
    elif what == "report":
        sousvit.open_run(folder).report()
    elif what == "finished":
        sousvit.resume(folder)
    elif what == "study":
        import optuna

        journal = optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
        optuna.load_study(study_name="sousvit", storage=optuna.storages.JournalStorage(journal)).get_trials()
    else:

        def begun() -> None:
            raise _Begun

        with contextlib.suppress(_Begun):
            make_run(folder, trials + 1, begun)


def asked_in_a_process(what: str, few: Path, many: Path) -> tuple[float, float]:
    """Seconds on the clock and of the processor that a question to the large run takes, in a process that has loaded.

    A question to the small run took part of it too; what it takes again is taken off (loading the model, say).
    """
    command = [sys.executable, __file__, "--ask", what, str(few), str(many)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    wall, processor = json.loads(told)
    return wall, processor


def answer(what: str, few: Path, many: Path) -> None:
    """Ask, and print the seconds: what the process of :func:`asked_in_a_process` does."""
    spent = []
    for folder, trials in ((few, FEW), (few, FEW), (many, TRIALS)):
        with tempfile.TemporaryDirectory() as copy:
            run = Path(copy) / folder.name
            shutil.copytree(folder, run)
            begun, used = time.perf_counter(), time.process_time()
            with contextlib.redirect_stdout(sys.stderr):
                ask(what, run, trials)
            spent.append((time.perf_counter() - begun, time.process_time() - used))
    loading = spent[1] if what == "resumed" else (0.0, 0.0)  # the model, which a real search loads in a worker
    print(json.dumps([spent[2][place] - loading[place] for place in (0, 1)]))


def main() -> None:
    """Make the runs, ask, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="folder for the runs, taken from there if they are there")
    parser.add_argument("--ask", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ask:
        answer(given.ask[0], Path(given.ask[1]), Path(given.ask[2]))
        return
    with tempfile.TemporaryDirectory() as temporary:
        place = given.keep or Path(temporary)
        few, many = place / "few", place / "many"
        for folder, trials in ((few, FEW), (many, TRIALS)):
            if not folder.exists():
                make_run(folder, trials)
        found = {what: [asked_in_a_process(what, few, many) for _ in range(REPEATED)] for what in ASKED}
        sizes = {name: (many / name).stat().st_size / 1e6 for name in ("events.jsonl", "study.journal")}
    with (HERE / "raw.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["asked", "seconds", "processor_seconds"])
        writer.writerows([what, f"{wall:.3f}", f"{used:.3f}"] for what, spent in found.items() for wall, used in spent)
    lines = ["| asked of 10,000 trials, what it imports loaded | s | of the processor, s |", "|---|---:|---:|"]
    for what, name in ASKED.items():
        wall, used = (min(column) for column in zip(*found[what], strict=True))
        lines.append(f"| {name} | {wall:.2f} | {used:.2f} |")
    lines += ["", ", ".join(f"{name} has {size:.1f} MB" for name, size in sizes.items()) + "."]
    command = "python benchmarks/archive_at_scale/run.py"
    write_result(HERE / "result.md", "\n".join([*provenance(command), *lines]) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
