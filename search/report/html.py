"""``report.html``: one self-contained page a run. Table of the answer, plot, every trial, what it cost."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sousvit.files import write_atomic
from sousvit.search.archive import Archive
from sousvit.search.budget import CONTACT_SHEET, Budget
from sousvit.search.judging.gate import seconds_saved
from sousvit.search.preference.alternatives import ANSWER, Alternative
from sousvit.search.report.terminal import headings, row_cells, short_recipe, show
from sousvit.search.results import Answer, judged
from sousvit.search.stored.opened import answer_of, open_run
from sousvit.search.trial import BaseRecord, Trial, quality_of, word_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

TEMPLATE = Path(__file__).with_name("report.html.j2")
COLOURS = {"fits": "#1a7f4b", "breaks a limit": "#c98a1b", "low rung": "#9aa7b5"}


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write a run's report and return its path.

    Raises:
        UserError: no run there, or nothing finished in it.
    """
    budget, archive = open_run(folder)
    answer = answer_of(budget, archive)
    if answer is not None and not answer.limits:  # written by an earlier version
        answer = judged(answer, budget)
    target = out or folder / "report.html"
    file = folder / CONTACT_SHEET
    picture = base64.b64encode(file.read_bytes()).decode() if file.is_file() else ""
    write_atomic(target, render(budget, archive, answer, folder.name, picture))
    return target


def render(budget: Budget, archive: Archive, answer: Answer | None, name: str, contact_sheet: str = "") -> str:
    """The page as text; everything from outside is escaped.

    Args:
        contact_sheet: a PNG of synthesised images in base64, or nothing.
    """
    from jinja2 import Environment, StrictUndefined

    rows = () if answer is None else answer.rows
    assert archive.base is not None
    quality = quality_of(archive.base.values)
    names = list(dict.fromkeys([quality, "latency_ratio", "size_ratio", *budget.limits, *budget.optimize]))
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        name=name,
        facts=_facts(budget, archive),
        answer=answer,
        short=short_recipe,
        headings=headings(budget, rows),
        rows=[{"role": r.role, "cells": row_cells(r.values, budget), "recipe": short_recipe(r.recipe)} for r in rows],
        judged_on=(answer and answer.images) or budget.data.final_name,
        contact_sheet=contact_sheet,
        alternative_headings=names,
        alternatives=[] if answer is None else [_alternative(one, names) for one in answer.alternatives],
        validation_name=budget.data.validation_name,
        parts=[] if answer is None else leave_one_out(answer),
        scatter=scatter(archive, budget).to_html(full_html=False, include_plotlyjs=True),
        cost=_cost(archive, answer),
        trial_headings=names,
        trials=[_trial(trial, names, budget) for trial in archive],
    )


def _facts(budget: Budget, archive: Archive) -> dict[str, str]:
    assert archive.base is not None
    machine = archive.base.machine
    versions = [f"{name} {version}" for name, version in machine.get("versions", {}).items() if version]
    return {
        "Base": f"{budget.model.name}: {_of_base(archive.base, budget)} in ONNX Runtime fp32",
        "Target": budget.where,
        "Hard limits": ", ".join(map(str, budget.hard_limits)) or "none",
        "Optimise": ", ".join(f"{name} x {weight:g}" for name, weight in budget.weights.items()),
        "Machine": f"{machine.get('cpu')}, {machine.get('cores')} cores, {', '.join(machine.get('flags', []))}",
        "Versions": ", ".join(versions),
        "Started": str(archive.header.get("started", "")),
    }


def _of_base(base: BaseRecord, budget: Budget) -> str:
    """How good the base is, in words. It agrees with itself, so agreement has no figure here."""
    judged_on = budget.data.validation_name
    if quality_of(base.values) == "agreement":
        return f"agreement with it is judged on {judged_on}"
    return f"{show(base.values[quality_of(base.values)])} {word_of(base.values)} on {judged_on}"


def leave_one_out(answer: Answer) -> list[dict[str, Any]]:
    """What happens to the recipe when one technique is left out: factors of latency and file, points of merit."""
    whole = next((row for row in answer.rows if row.role == "recipe"), None)
    if whole is None:
        return []
    quality = quality_of(whole.values)
    return [
        {
            "technique": row.role.removeprefix("without "),
            "slower": row.values["latency_ratio"].value / whole.values["latency_ratio"].value,
            "larger": row.values["size"].value / whole.values["size"].value,
            "points": 100 * (row.values[quality].value - whole.values[quality].value),
        }
        for row in answer.rows
        if row.role.startswith("without ")
    ]


def _group(trial: Trial, budget: Budget) -> str:
    if trial.status != "complete":
        return trial.status
    if trial.fidelity < 1:
        return "low rung"
    return "fits" if budget.goals().holds(trial.values) else "breaks a limit"


def scatter(archive: Archive, budget: Budget) -> go.Figure:
    """The figure of merit against latency relative to the base; a larger mark is a larger file."""
    import plotly.graph_objects as go

    assert archive.base is not None
    quality, word = quality_of(archive.base.values), word_of(archive.base.values)
    judged_on, figure = budget.data.validation_name, go.Figure()
    for group, colour in COLOURS.items():
        chosen = [trial for trial in archive if _group(trial, budget) == group]
        sizes = [7 + 18 * min(1.0, trial.get("size_ratio")) for trial in chosen]
        figure.add_scatter(
            **_points(chosen, quality),
            mode="markers",
            name=group,
            marker={"color": colour, "size": sizes, "opacity": 0.75},
            text=[short_recipe(trial.recipe) for trial in chosen],
            hovertemplate="%{text}<br>latency x %{x:.3f}, " + word + " %{y:.2f} %<extra></extra>",
        )
    front = sorted(archive.front(budget.goals()), key=lambda trial: trial.get("latency_ratio"))
    line = {"color": COLOURS["fits"], "dash": "dot"}
    figure.add_scatter(**_points(front, quality), mode="lines", name="feasible front", line=line, hoverinfo="skip")
    axes = {"xaxis_title": "latency / base (ONNX Runtime fp32)", "yaxis_title": f"{word} on {judged_on}, %"}
    figure.update_layout(**axes, height=480, template="plotly_white", margin={"t": 20})
    return figure


def _points(trials: Sequence[Trial], quality: str) -> dict[str, list[float]]:
    return {
        "x": [trial.get("latency_ratio") for trial in trials],
        "y": [100 * trial.get(quality) for trial in trials],
    }


def _alternative(one: Alternative, names: Sequence[str]) -> dict[str, Any]:
    return {
        "names": ", ".join(one.names),
        "is_answer": one.names[0] == ANSWER,
        "cells": [show(one.trial.values[name]) if name in one.trial.values else "" for name in names],
        "recipe": short_recipe(one.trial.recipe),
    }


def _cost(archive: Archive, answer: Answer | None) -> str:
    seconds: dict[str, float] = {}
    for trial in archive:
        for part, value in trial.seconds.items():
            seconds[part] = seconds.get(part, 0.0) + value
    statuses = [trial.status for trial in archive]
    total = ""
    if answer is not None and answer.cost:
        cost = {part: value / 60 for part, value in answer.cost.items() if part.endswith("_seconds")}
        last = f" ({cost['answer_seconds']:.1f} of them for the answer)" if "answer_seconds" in cost else ""
        total = f"{cost['wall_seconds']:.1f} min wall time{last}, {answer.cost['core_hours']:.2f} core-hours. "
    counts = f"{len(statuses)} trials: {statuses.count('complete')} complete, "
    counts += f"{statuses.count('gated')} gated before training, {statuses.count('failed')} failed. "
    parts = ", ".join(f"{part} {value:.0f} s" for part, value in sorted(seconds.items(), key=lambda pair: -pair[1]))
    saved = f" The gates saved about {seconds_saved(archive) / 60:.1f} min." if "gated" in statuses else ""
    predicted = archive.prediction_errors
    errors = f" Costs were predicted to order candidates: {predicted}." if predicted else ""
    return f"{total}{counts}In trials: {parts}.{saved}{errors}"


def _trial(trial: Trial, names: Sequence[str], budget: Budget) -> dict[str, Any]:
    return {
        "status": _group(trial, budget),
        "training": f"{trial.fidelity:.0%}",
        "cells": [f"{trial.values[name].value:.4g}" if name in trial.values else "" for name in names],
        "recipe": short_recipe(trial.recipe),
        "message": trial.message,
    }
