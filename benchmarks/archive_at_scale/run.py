"""The wait for a run of 10,000 trials: resuming it, its report, its recipe for another budget, its study.

    python benchmarks/archive_at_scale/run.py

The run is made first: the embedded example's budget in the whole default space, searched on simulated trials whose
figures are as many and as long as those of a real one. Then each command is asked in a process of its own, once for a
run of a few trials (which loads what it imports) and once for the large one; the second is what counts. Prints the
seconds and writes ``result.md`` and ``raw.csv``. It imports the search from inside, because no command simulates trials.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

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

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "fashion-mnist" / "budget.yaml"
#: Trials of the run that is asked, and of the one that is asked before it.
TRIALS, FEW = 10_000, 24
#: Seconds of a simulated trial.
SECONDS = {"gate": 1.5, "build": 3.0, "export": 0.5, "judge": 1.0}
#: What a user waits for; the last two are parts of it.
ASKED = {
    "open_run": "`sousvit.open_run`",
    "recipe": "`sousvit recipe RUN --prefer size`",
    "report": "`sousvit report RUN`",
    "resume_finished": "`sousvit resume RUN`, finished",
    "resume_search": "`sousvit resume RUN`, until the next trial begins",
    "study": "its study, as `sousvit dashboard` opens it",
}


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


def make_run(folder: Path, trials: int, stop_at: Callable[[], None] | None = None) -> None:
    """Search in ``folder`` until it has so many trials, and answer; ``stop_at`` is called before the first trial."""
    asked = budget(trials)
    shape = vit_shape(load(asked.model).module)
    base = BaseRecord(
        figures(Recipe(), shape), asdict(shape), {"cpu": "simulated", "cores": 1, "flags": [], "versions": {}}
    )

    def judge(job: Job) -> JobResult:
        recipe = Recipe.from_dict(job.recipe)
        seconds = SECONDS | {"recover": 10.0 * job.fidelity * recipe.trains}
        return JobResult(job.attempt, "complete", figures(recipe, shape, job.fidelity), seconds)

    def table(request: MakeTable) -> FinalTable:
        rows = [("base", Recipe().to_dict()), ("recipe", request.recipe)]
        return FinalTable(tuple(Row(name, one, figures(Recipe.from_dict(one), shape), name) for name, one in rows))

    answers = {Verify: lambda request: figures(Recipe.from_dict(request.recipe), shape), MakeTable: table}
    search(
        asked, folder, lambda b, f: _Stopped(base, judge, SimulatedClock(), answers, stop_at), clock=SimulatedClock()
    )


class _Stopped(SimulatedExecutor):
    """An executor that tells when the first job comes."""

    def __init__(
        self, base: BaseRecord, judge: Callable[[Job], JobResult], clock: SimulatedClock, answers: dict, told
    ) -> None:  # type: ignore[type-arg, no-untyped-def]
        super().__init__(base, judge, clock, answers)
        self._told = told

    def submit(self, job: Job) -> None:
        if self._told is not None:
            self._told()
        super().submit(job)
