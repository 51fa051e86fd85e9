"""The same search space, base, data, cores and wall time for sousvit and for plain Optuna: TPE, NSGA-II and random.

    python benchmarks/side_by_side/run.py --data DIR --model VIT.safetensors --minutes 15 --limit-train 6000

Plain Optuna gets our techniques, our worker with its caches, and our constraints; what it lacks are the search's own
levers: gates, starters, rungs, deployments of recovered models, and a model of what is expensive. Its samplers are
those of ``sousvit list proposers`` (TPE samples groups of parameters together; results up to November 2026 sampled
each alone). All answers come the same way: the best final recipe that holds the limit, measured again, beside the base
on the test split. Writes ``result_RUN.md``, ``raw_RUN.csv`` (every result with its second) and ``runs/RUN.html``
(hypervolume against time), as ``--run`` names it. A policy that has its answer is not run again. ``--policies sousvit
no-fan-out ...`` are the search with one lever off (:mod:`levers`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import moocore
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from levers import CHANGES

import sousvit

sys.path.insert(0, str(Path(__file__).parents[1]))
from common.on_cifar10 import TECHNIQUES, arguments, budget
from common.provenance import provenance, write_result

HERE = Path(__file__).parent
POLICIES = ("sousvit", "tpe", "nsga2", "random")
AXES = ("latency_ratio", "size_ratio")
EPOCHS = 2


class Printed(sousvit.Callback):
    """A line a trial."""

    def on_trial(self, trial: Any, counts: Any) -> None:
        figures = " ".join(f"{name} {trial.get(name):.3f}" for name in ("accuracy", *AXES))
        spent = sum(trial.seconds.values())
        recipe = " + ".join(trial.techniques)
        print(f"{trial.origin:9s} {spent:6.1f} s  {figures}  {trial.message}| {recipe}", flush=True)

    def on_message(self, text: str) -> None:
        print(text)


def run_policy(name: str, values: Mapping[str, Any], folder: Path) -> sousvit.Result:
    """Search by one policy and answer."""
    print(f"-- {name}", flush=True)
    return sousvit.Search(values, run=folder, callbacks=[Printed()]).optimize()


def trials(folder: Path) -> pd.DataFrame:
    """Every trial with the ``second`` at which it was recorded, counted from the base's measurement, and ``final``."""
    found = sousvit.open_run(folder).trials
    begun, second = 0.0, {}
    for event in map(json.loads, (folder / "events.jsonl").read_text().splitlines()):
        at = datetime.fromisoformat(event["at"]).timestamp()
        if event["event"] == "base":
            begun = at
        elif event["event"] == "trial":
            second.setdefault(event["trial"]["key"], at - begun)
    final = (found["status"] == "complete") & (found["fidelity"] >= 1)
    return found.assign(second=found["key"].map(second), final=final)


def curve(folder: Path) -> list[tuple[float, float]]:
    """(second, hypervolume): the part of the unit square of latency and size ratios that feasible results dominate."""
    points: list[list[float]] = []
    steps = [(0.0, 0.0)]
    found = trials(folder)
    for _, trial in found[found["feasible"]].iterrows():
        points.append([trial[name] for name in AXES])
        steps.append((trial["second"], float(moocore.hypervolume(np.array(points), ref=np.ones(len(AXES))))))
    return steps


def at(steps: Sequence[tuple[float, float]], second: float) -> float:
    """The curve's height."""
    return max(height for when, height in steps if when <= second)


def reached(steps: Sequence[tuple[float, float]], height: float) -> str:
    """When the curve came so high; ``-`` where nothing is to be reached."""
    when = next((second for second, found in steps if found >= height), None)
    return "-" if height <= 0 else "never" if when is None else f"{when / 60:.1f} min"


def table(results: Mapping[str, sousvit.Result], given: argparse.Namespace, command: str) -> str:
    """The result as Markdown."""
    first = next(iter(results.values()))
    whole = 60.0 * given.minutes
    curves = {name: curve(result.folder) for name, result in results.items()}
    last = whole * given.random_times
    goal = at(curves["random"], last) if "random" in curves else 0.0
    marks = sorted({whole / 4, whole / 2, whole, last})
    head = [f"{mark / 60:g} min" for mark in marks]
    longer = "" if last == whole else f" (random {last / 60:g})"
    lines = [
        *provenance(command, sousvit.open_run(first.folder).machine),
        f"{given.minutes:g} minutes each{longer}, one after the other on the same idle machine; seed {given.seed}; "
        f"limits: {', '.join(map(str, first.budget.hard_limits))}; recovery: {EPOCHS} epochs. Hypervolume: of feasible "
        "results in the unit square of latency and size, as shares of the base's (validation).",
        "",
        f"| | trained in full | feasible | {' | '.join(head)} | reaches random's last |",
        "|---|---:|---:|" + "---:|" * len(marks) + "---:|",
    ]
    for name, result in results.items():
        found = trials(result.folder)
        over = last if name == "random" else whole
        shares = " | ".join(f"{at(curves[name], mark):.3f}" if mark <= over else "" for mark in marks)
        counts = f"{found['final'].sum()} | {found['feasible'].sum()}"
        lines.append(f"| {name} | {counts} | {shares} | {reached(curves[name], goal)} |")
    lines += ["", "Answers, each beside the base on the test split, 95% intervals:", ""]
    lines += [
        "| | top-1 % | drop, points | p50 ms | speed-up | MB | smaller | recipe |",
        "|---|" + "---:|" * 6 + "---|",
    ]
    return "\n".join([*lines, *(f"| {name} | {told(result)} |" for name, result in results.items())]) + "\n"


def told(result: sousvit.Result) -> str:
    """An answer's cells."""
    if result.status == "infeasible":
        return "no recipe that holds the limits"
    drop, ratio = result["accuracy_drop"], result["latency_ratio"]
    cells = [
        f"{100 * result['accuracy'].value:.2f}",
        f"{100 * drop.value:+.2f} [{100 * drop.low:+.2f}, {100 * drop.high:+.2f}]",
        f"{result['latency'].value:.3f}",
        f"{1 / ratio.value:.2f} [{1 / ratio.high:.2f}, {1 / ratio.low:.2f}]",
        f"{result['size'].value:.3f}",
        f"{1 / result['size_ratio'].value:.2f}x",
        str(result.table.loc["recipe", "recipe"]),
    ]
    return " | ".join(cells)


def write_raw(results: Mapping[str, sousvit.Result], to: Path) -> None:
    """Every result with its second, as CSV."""
    names = ("accuracy_drop", *AXES)
    columns = ["policy", "second", "fidelity", "status", *names, "recipe"]
    found = pd.concat([trials(result.folder).assign(policy=name) for name, result in results.items()])
    found["second"] = found["second"].map("{:.0f}".format)
    for name in names:
        found[name] = found[name].map("{:.5g}".format)
    found.to_csv(to, columns=columns, index=False, float_format="%g", lineterminator="\n")


def write_plot(results: Mapping[str, sousvit.Result], to: Path) -> None:
    """Hypervolume against minutes."""
    figure = go.Figure()
    for name, result in results.items():
        when, height = zip(*curve(result.folder), strict=True)
        figure.add_scatter(x=[second / 60 for second in when], y=height, name=name, line_shape="hv")
    figure.update_layout(xaxis_title="minutes", yaxis_title="hypervolume of feasible recipes", template="plotly_white")
    figure.write_html(to, include_plotlyjs="cdn")


def request(given: argparse.Namespace, policy: str) -> dict[str, Any]:
    """The budget that all policies get, as plain values; only random search may get more time."""
    minutes = given.minutes * (given.random_times if policy == "random" else 1)
    change = CHANGES[policy]
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
    parser.add_argument("--policies", nargs="+", choices=list(CHANGES), default=list(POLICIES))
    given = parser.parse_args()
    results = {
        name: run_policy(name, request(given, name), Path("runs") / f"{given.run}-{name}") for name in given.policies
    }
    shown = ("run", "minutes", "limit_train", "seed", "drop", "random_times")
    changed = {name: value for name in shown if (value := getattr(given, name)) != parser.get_default(name)}
    options = "".join(f" --{name.replace('_', '-')} {value}" for name, value in changed.items())
    if given.policies != list(POLICIES):
        options += f" --policies {' '.join(given.policies)}"
    command = f"python benchmarks/side_by_side/run.py --data DIR --model VIT.safetensors{options}"
    variant = given.run.replace("-", "_")
    write_raw(results, HERE / f"raw_{variant}.csv")
    write_plot(results, Path("runs") / f"{given.run}.html")
    write_result(HERE / f"result_{variant}.md", text := table(results, given, command))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
