"""The same search space, base, data, cores and wall time for sousvit and for plain Optuna: TPE, NSGA-II and random.

    python benchmarks/side_by_side/run.py --data DIR --model VIT.safetensors --minutes 15 --limit-train 6000

Plain Optuna gets our techniques, our worker with its caches, and our constraints; what it lacks are the search's own
levers: gates, starters, rungs, variants of recovered models, and a model of what is expensive. All answers come the
same way: the best final recipe that holds the limit, measured again, beside the base on the test split. Writes
``result_RUN.md``, ``raw_RUN.csv`` (every result with its second) and ``runs/RUN.html`` (hypervolume against time), as
``--run`` names it. A policy that has its answer is not run again. ``--policies sousvit no-fan-out ...`` are the search
with one lever off (:mod:`levers`).
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import moocore
import numpy as np
import plotly.graph_objects as go
from levers import CHANGES, Change

from sousvit.errors import UserError
from sousvit.search.archive import EVENTS, Archive, open_run, read_events
from sousvit.search.budget import Budget, make_budget, open_space
from sousvit.search.callbacks import Callback, Counts
from sousvit.search.executors.executor import Executor, finished, make_job
from sousvit.search.executors.open import local_executor
from sousvit.search.fidelity.learning_curve import FULL
from sousvit.search.goals import Goals
from sousvit.search.replay.samplers import SAMPLERS, run_sampler
from sousvit.search.report.terminal import headings, row_cells, short_recipe
from sousvit.search.results import Answer
from sousvit.search.run import claim_run, search
from sousvit.search.trial import Trial
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.shape import ModelShape, read_shape
from sousvit.spaces.space import Space

sys.path.insert(0, str(Path(__file__).parents[1]))
from common.on_cifar10 import TECHNIQUES, arguments, budget
from common.provenance import provenance, write_result

HERE = Path(__file__).parent
POLICIES = ("sousvit", "tpe", "nsga2", "random")
AXES = ("latency_ratio", "size_ratio")
EPOCHS = 2


class RealEvaluations:
    """What a plain sampler searches (:class:`~sousvit.search.replay.samplers.Evaluations`): trained in full."""

    def __init__(self, own: Budget, archive: Archive, executor: Executor, shape: ModelShape, space: Space) -> None:
        self.seed, self.space, self.goals = own.search.seed, space, own.goals()
        self._own, self._archive, self._executor, self._shape = own, archive, executor, shape
        self._ends = time.monotonic() + (own.search.time or 0.0)

    @property
    def is_over(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self._ends

    @property
    def paid(self) -> int:
        """Evaluations so far."""
        return self._archive.own

    def evaluate(self, recipe: Recipe) -> Trial | None:
        """Judge a recipe in full; a known one costs nothing."""
        try:
            recipe = recipe.canonical(self._shape)
            recipe.reshape(self._shape)
        except UserError:
            return None
        trial = Trial.pending(recipe, FULL, self.seed)
        if trial.key not in self._archive.trials:
            self._archive.add(finished(trial, self._executor.run(make_job(trial, self._own.search))))
            tell(self._archive.trials[trial.key])
        record = self._archive.trials[trial.key]
        return record if record.is_final else None


def tell(record: Trial) -> None:
    """A line a trial."""
    recipe = short_recipe(record.recipe)
    figures = " ".join(f"{name} {record.get(name):.3f}" for name in ("accuracy", *AXES))
    spent = sum(record.seconds.values())
    print(f"{record.origin:9s} {spent:6.1f} s  {figures}  {record.message}| {recipe}", flush=True)


def run_plain(name: str, own: Budget, folder: Path) -> None:
    """A sampler's search, left in a run folder like any other, for ``search`` to answer from."""
    archive = Archive(folder, writable=True)
    claim_run(archive, own, own.identity)
    with local_executor(own, folder) as executor:
        base = executor.start(archive.base)
        if archive.base is None:
            archive.append("base", base=base.to_dict())
        begun, shape = time.monotonic(), read_shape(base.shape)
        run_sampler(name, RealEvaluations(own, archive, executor, shape, open_space(own, shape)[0]))
        archive.append("session", seconds=time.monotonic() - begun, core_seconds=executor.core_seconds())
    archive.close()


class Printed(Callback):
    """A line a trial."""

    def on_trial(self, trial: Trial, counts: Counts) -> None:
        tell(trial)

    def on_message(self, text: str) -> None:
        print(text)


def run_policy(name: str, own: Budget, folder: Path) -> Answer:
    """Search by one policy and answer."""
    print(f"-- {name}", flush=True)
    if name in SAMPLERS and not (folder / EVENTS).is_file():
        run_plain(name, own, folder)
    with CHANGES.get(name, Change()).applied():
        return search(own, folder, local_executor, Printed())


def events(folder: Path) -> list[tuple[float, Trial]]:
    """Every trial with the second at which it was recorded, counted from the base's measurement."""
    found: list[tuple[float, Trial]] = []
    begun = 0.0
    for event in read_events(folder / EVENTS):
        second = datetime.fromisoformat(event["at"]).timestamp()
        if event["event"] == "base":
            begun = second
        elif event["event"] == "trial":
            found.append((second - begun, Trial.from_dict(event["trial"])))
    return found


def curve(folder: Path, goals: Goals) -> list[tuple[float, float]]:
    """(second, hypervolume): the part of the unit square of latency and size ratios that feasible results dominate."""
    points: list[list[float]] = []
    steps = [(0.0, 0.0)]
    for second, record in events(folder):
        if record.is_final and goals.holds(record.values):
            points.append([record.get(name) for name in AXES])
            steps.append((second, float(moocore.hypervolume(np.array(points), ref=np.ones(len(AXES))))))
    return steps


def at(steps: Sequence[tuple[float, float]], second: float) -> float:
    """The curve's height."""
    return max(height for when, height in steps if when <= second)


def reached(steps: Sequence[tuple[float, float]], height: float) -> str:
    """When the curve came so high; ``-`` where nothing is to be reached."""
    when = next((second for second, found in steps if found >= height), None)
    return "-" if height <= 0 else "never" if when is None else f"{when / 60:.1f} min"


def table(answers: Mapping[str, Answer], folders: Mapping[str, Path], given: argparse.Namespace, command: str) -> str:
    """The result as Markdown."""
    own, archive = open_run(next(iter(folders.values())))
    goals, whole = own.goals(), 60.0 * given.minutes
    curves = {name: curve(folder, goals) for name, folder in folders.items()}
    last = whole * given.random_times
    goal = at(curves["random"], last) if "random" in curves else 0.0
    marks = sorted({whole / 4, whole / 2, whole, last})
    head = [f"{mark / 60:g} min" for mark in marks]
    longer = "" if last == whole else f" (random {last / 60:g})"
    lines = [
        *provenance(command, archive.base.machine),
        f"{given.minutes:g} minutes each{longer}, one after the other on the same idle machine; seed {given.seed}; "
        f"limits: {', '.join(map(str, goals.limits))}; recovery: {EPOCHS} epochs. Hypervolume: of feasible results in "
        "the unit square of latency and size, as shares of the base's (validation).",
        "",
        f"| | trained in full | feasible | {' | '.join(head)} | reaches random's last |",
        "|---|---:|---:|" + "---:|" * len(marks) + "---:|",
    ]
    for name, folder in folders.items():
        final = [record for _, record in events(folder) if record.is_final]
        held = sum(goals.holds(record.values) for record in final)
        over = last if name == "random" else whole
        shares = " | ".join(f"{at(curves[name], mark):.3f}" if mark <= over else "" for mark in marks)
        lines.append(f"| {name} | {len(final)} | {held} | {shares} | {reached(curves[name], goal)} |")
    lines += ["", "Answers, each beside the base on the test split, 95% intervals:", ""]
    titles = headings(own, next(iter(answers.values())).rows)
    lines += ["| | " + " | ".join(titles) + " | recipe |", "|---|" + "---:|" * len(titles) + "---|"]
    for name, answer in answers.items():
        row = next((row for row in answer.rows if row.role == "recipe"), None)
        if row is None or not answer.feasible:
            lines.append(f"| {name} | no recipe that holds the limits |")
        else:
            lines.append(f"| {name} | {' | '.join(row_cells(row.values, own))} | {short_recipe(row.recipe)} |")
    return "\n".join(lines) + "\n"


def write_raw(folders: Mapping[str, Path], to: Path) -> None:
    """Every result with its second, as CSV."""
    with to.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["policy", "second", "fidelity", "status", "accuracy_drop", *AXES, "recipe"])
        for name, folder in folders.items():
            for second, record in events(folder):
                figures = [f"{record.get(value):.5g}" for value in ("accuracy_drop", *AXES)]
                head = [name, f"{second:.0f}", f"{record.fidelity:g}", record.status]
                writer.writerow([*head, *figures, json.dumps(record.recipe)])


def write_plot(folders: Mapping[str, Path], to: Path) -> None:
    """Hypervolume against minutes."""
    figure = go.Figure()
    for name, folder in folders.items():
        when, height = zip(*curve(folder, open_run(folder)[0].goals()), strict=True)
        figure.add_scatter(x=[second / 60 for second in when], y=height, name=name, line_shape="hv")
    figure.update_layout(xaxis_title="minutes", yaxis_title="hypervolume of feasible recipes", template="plotly_white")
    figure.write_html(to, include_plotlyjs="cdn")


def request(given: argparse.Namespace, policy: str) -> dict[str, Any]:
    """The budget that all policies get, as plain values; only random search may get more time."""
    minutes = given.minutes * (given.random_times if policy == "random" else 1)
    change = CHANGES.get(policy, Change())
    techniques = {**TECHNIQUES, "distill": {**TECHNIQUES["distill"], "epochs": [EPOCHS]}, **change.techniques}
    search = {"trials": 10_000, "time": f"{minutes:g}m", "seed": given.seed, "leave_one_out": False}
    return {**budget(given, techniques), "limits": {"accuracy_drop": given.drop}, "search": {**search, **change.search}}


def main() -> int:
    """Run every policy, then compare."""
    parser = arguments(__doc__, "two-points")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drop", type=float, default=0.02, help="top-1 that may be lost on validation")
    parser.add_argument("--random-times", type=float, default=1.0, help="random search gets so many times the minutes")
    parser.add_argument("--policies", nargs="+", choices=["sousvit", *SAMPLERS, *CHANGES], default=list(POLICIES))
    given = parser.parse_args()
    folders = {name: Path("runs") / f"{given.run}-{name}" for name in given.policies}
    answers = {
        name: run_policy(name, make_budget(request(given, name), Path()), folder) for name, folder in folders.items()
    }
    shown = ("run", "minutes", "limit_train", "seed", "drop", "random_times")
    told = {name: value for name in shown if (value := getattr(given, name)) != parser.get_default(name)}
    options = "".join(f" --{name.replace('_', '-')} {value}" for name, value in told.items())
    if given.policies != list(POLICIES):
        options += f" --policies {' '.join(given.policies)}"
    command = f"python benchmarks/side_by_side/run.py --data DIR --model VIT.safetensors{options}"
    variant = given.run.replace("-", "_")
    write_raw(folders, HERE / f"raw_{variant}.csv")
    write_plot(folders, Path("runs") / f"{given.run}.html")
    write_result(HERE / f"result_{variant}.md", text := table(answers, folders, given, command))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
