"""Policies side by side on one table, over many seeds: what each reached after so many evaluations and seconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sousvit.errors import UserError
from sousvit.files import write_atomic
from sousvit.search.executors.spawn import is_unguarded, unguarded
from sousvit.search.proposers.proposer import PROPOSERS
from sousvit.search.replay.curves import Curve, Hypervolume, interval
from sousvit.search.replay.policies import replay
from sousvit.search.replay.table import Table

if TYPE_CHECKING:
    import plotly.graph_objects as go

#: Marks at which shares are compared: these parts of all evaluations.
MARKS = (1 / 8, 1 / 4, 1 / 2, 1.0)
#: Points of a plotted line.
DRAWN = 60


@dataclass(frozen=True)
class Comparison:
    """Curves by policy, one per seed.

    Attributes:
        evaluations: that each policy was given.
        curves: of equal seeds in equal places.
        seconds: that each policy was given, where time is what counts.
    """

    evaluations: int
    curves: dict[str, list[Curve]]
    seconds: float | None = None

    @property
    def unit(self) -> str:
        """What marks are counted in."""
        return "evaluations" if self.seconds is None else "s"

    def marks(self) -> list[float]:
        """Numbers of evaluations, or of seconds, at which the table of results compares."""
        whole = self.evaluations if self.seconds is None else self.seconds
        return sorted({max(1, round(share * whole)) for share in MARKS})

    def shares(self, policy: str, mark: float) -> tuple[float, float, float]:
        """Mean share of the hypervolume at a mark, with its 95% interval over seeds."""
        curves = self.curves[policy]
        if self.seconds is None:
            return interval([curve.at_evaluation(round(mark)) for curve in curves])
        return interval([curve.at_second(mark) for curve in curves])

    def seconds_to(self, policy: str, share: float) -> tuple[float, int]:
        """Median time until ``share`` is reached by the seeds that reach it, and how many do."""
        times = [float(curve.seconds[np.argmax(curve.share >= share)]) for curve in self.curves[policy]
                 if len(curve.share) and curve.share[-1] >= share]  # fmt: skip
        return (float(np.median(times)) if times else float("inf")), len(times)

    def own_seconds(self, policy: str) -> float:
        """Mean time that the policy itself takes per evaluation."""
        return float(np.mean([curve.own_seconds / max(1, len(curve.share)) for curve in self.curves[policy]]))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: every curve."""
        return {
            "evaluations": self.evaluations,
            "seconds": self.seconds,
            "policies": {
                policy: [{"seconds": c.seconds.round(3).tolist(), "share": c.share.round(5).tolist(),
                          "own_seconds": round(c.own_seconds, 3)} for c in curves]
                for policy, curves in self.curves.items()
            },
        }  # fmt: skip


def compare(
    path: Path,
    policies: Sequence[str],
    evaluations: int,
    seeds: int,
    workers: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
    seconds: float | None = None,
) -> Comparison:
    """Replay every policy with every seed.

    Args:
        path: the table's description.
        workers: processes; a policy's own time is charged, so no more than idle cores.
        seconds: of the recorded clock that a policy gets; then evaluations do not end it.

    Raises:
        UserError: a bad table or an unknown policy, or a script without a main guard.
    """
    table = Table.read(path, progress or (lambda what, done, total: None))
    table.points()  # what cannot be compared is told before a replay begins
    every = sum(1 for _ in table.recipes()) * len(table.fidelities)
    evaluations = every if seconds is not None else min(evaluations, every)
    tasks = list(product(policies, range(seeds)))
    curves: dict[str, list[Curve]] = {policy: [] for policy in policies}
    for done, ((policy, _), curve) in enumerate(
        zip(tasks, _run(path, tasks, evaluations, seconds, workers), strict=True)
    ):
        curves[policy].append(curve)
        if progress is not None:
            progress(f"replaying {policy}", done + 1, len(tasks))
    return Comparison(evaluations, curves, seconds)


def _run(
    path: Path, tasks: Sequence[tuple[str, int]], evaluations: int, seconds: float | None, workers: int
) -> Iterator[Curve]:
    one = partial(_replay, path, evaluations, seconds)
    if workers == 1:
        yield from map(one, tasks)
        return
    spawned = get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, spawned, initializer=_load, initargs=(PROPOSERS.references(),)) as pool:
            yield from pool.map(one, tasks)
    except BrokenProcessPool as error:
        if is_unguarded():
            raise unguarded("workers=1") from None
        raise UserError("every worker must live until its replays are done", error, "use fewer workers") from error


def _load(proposers: list[str]) -> None:
    """A user's own, in a worker."""
    for reference in proposers:
        PROPOSERS.load(reference)


_tables: dict[Path, tuple[Table, Hypervolume]] = {}


def _replay(path: Path, evaluations: int, seconds: float | None, task: tuple[str, int]) -> Curve:
    if path not in _tables:  # a worker reads it once
        table = Table.read(path)
        _tables[path] = table, table.hypervolume()
    table, hypervolume = _tables[path]
    policy, seed = task
    return replay(table, policy, evaluations, seed, hypervolume, seconds)


def markdown(comparison: Comparison) -> str:
    """Shares of the table's hypervolume by policy, and the time to what random search reaches in the end."""
    marks = comparison.marks()
    lines = [
        "| policy | "
        + " | ".join(f"{mark:g} {comparison.unit}" for mark in marks)
        + " | own time, ms per evaluation |",
        "|---|" + "---:|" * (len(marks) + 1),
    ]
    for policy in comparison.curves:
        cells = ["{:.3f} [{:.3f}, {:.3f}]".format(*comparison.shares(policy, mark)) for mark in marks]
        lines.append(f"| {policy} | " + " | ".join(cells) + f" | {1000 * comparison.own_seconds(policy):.0f} |")
    if "random" in comparison.curves:
        goal = comparison.shares("random", marks[-1])[0]
        lines += ["", f"Time to random search's last mean share ({goal:.3f}), median of the seeds that reach it:", ""]
        for policy, curves in comparison.curves.items():
            seconds, reached = comparison.seconds_to(policy, goal)
            lines.append(f"- {policy}: {seconds:.0f} s ({reached} of {len(curves)} seeds)")
    return "\n".join(lines) + "\n"


def plot(comparison: Comparison) -> go.Figure:
    """Mean share against evaluations (or seconds), with the interval over seeds as a band."""
    import plotly.graph_objects as go
    from plotly.colors import qualitative

    figure = go.Figure()
    counts = sorted({int(count) for count in np.linspace(1, comparison.marks()[-1], DRAWN)})
    for place, policy in enumerate(comparison.curves):
        colour = qualitative.D3[place % len(qualitative.D3)]
        mean, low, high = np.array([comparison.shares(policy, count) for count in counts]).T
        figure.add_scatter(x=counts, y=mean, name=policy, line={"color": colour})
        band = {"fill": "toself", "line": {"width": 0}, "opacity": 0.2, "hoverinfo": "skip", "showlegend": False}
        figure.add_scatter(x=[*counts, *counts[::-1]], y=[*high, *low[::-1]], fillcolor=colour, **band)
    axes = {"xaxis_title": comparison.unit, "yaxis_title": "share of the table's hypervolume"}
    figure.update_layout(**axes, height=520, template="plotly_white")
    return figure


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write ``replay.json`` (every curve), ``replay.md`` (the table) and ``replay.html`` (the plot)."""
    write_atomic(folder / "replay.json", json.dumps(comparison.to_dict()))
    write_atomic(folder / "replay.md", markdown(comparison))
    write_atomic(folder / "replay.html", plot(comparison).to_html(full_html=True, include_plotlyjs=True))
