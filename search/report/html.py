"""``report.html``: one self-contained page a run. Table of the answer, plots, every trial, what it cost."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sousvit.common.files import write_atomic
from sousvit.search.answer import Answer
from sousvit.search.archive import Archive, violations
from sousvit.search.budget import Budget
from sousvit.search.record import TrialRecord
from sousvit.search.report.terminal import row_cells, short_recipe, show
from sousvit.search.run import open_run, senses

if TYPE_CHECKING:
    import plotly.graph_objects as go

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1150px;padding:0 1rem;color:#1c2430}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.2rem}
table{border-collapse:collapse;width:100%;font-size:13px}th,td{padding:.35rem .55rem;text-align:left;border-bottom:1px solid #dde3ea}
td.n,th.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
tr.recipe{font-weight:600;background:#eef6f0}.verdict{padding:.6rem .9rem;border-radius:6px;background:#eef6f0}
.verdict.infeasible{background:#fbeceb}.scroll{max-height:480px;overflow:auto}code{font-size:12.5px}
"""
COLOURS = {"fits": "#1a7f4b", "breaks a limit": "#c98a1b", "low rung": "#9aa7b5"}


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write a run's report and return its path.

    Raises:
        UserError: no run there, or nothing finished in it.
    """
    budget, archive = open_run(folder)
    path = folder / "answer.json"
    answer = Answer.from_dict(json.loads(path.read_text())) if path.is_file() else None
    target = out or folder / "report.html"
    write_atomic(target, render(budget, archive, answer, folder.name))
    return target


def render(budget: Budget, archive: Archive, answer: Answer | None, name: str) -> str:
    """The page as text."""
    parts = [f"<h1>sousvit run {html.escape(name)}</h1>", _request(budget, archive)]
    if answer is not None:
        parts += [_verdict(answer), _answer_table(answer), _leave_one_out(answer)]
    else:
        parts.append("<p class='verdict'>The search is not finished; the trials so far follow.</p>")
    parts += ["<h2>Trade-off</h2>", _figure(_scatter(archive, budget), first=True)]
    parts += ["<h2>Where the time went</h2>", _cost(archive, answer), "<h2>Trials</h2>", _trials(archive, budget)]
    body = "\n".join(parts)
    return f"<!doctype html><html lang='en'><meta charset='utf-8'><title>sousvit {html.escape(name)}</title><style>{STYLE}</style><body>{body}</body></html>"


def _request(budget: Budget, archive: Archive) -> str:
    assert archive.base is not None
    machine = archive.base.machine
    limits = ", ".join(map(str, budget.hard_limits)) or "none"
    versions = ", ".join(f"{name} {version}" for name, version in machine.get("versions", {}).items() if version)
    facts = {
        "Base": f"{budget.model.name} ({show(archive.base.values['accuracy'])} top-1 on validation, ONNX Runtime fp32)",
        "Target": str(budget.target),
        "Hard limits": limits,
        "Optimise": ", ".join(f"{entry} x {weight:g}" for entry, weight in budget.optimize.items()),
        "Machine": f"{machine.get('cpu')}, {machine.get('cores')} cores, {', '.join(machine.get('flags', []))}",
        "Versions": versions,
        "Started": str(archive.header.get("started", "")),
    }
    rows = "".join(f"<tr><th>{html.escape(key)}</th><td>{html.escape(text)}</td></tr>" for key, text in facts.items())
    return f"<table>{rows}</table>"


def _verdict(answer: Answer) -> str:
    if answer.chosen is None:
        return "<p class='verdict infeasible'>Infeasible: no trial finished.</p>"
    recipe = html.escape(short_recipe(answer.chosen.recipe))
    notes = "".join(f"<br>{html.escape(note)}" for note in answer.notes)
    if answer.feasible:
        return f"<p class='verdict'>Recipe: <code>{recipe}</code>{notes}</p>"
    missed = html.escape("; ".join(answer.violated))
    return f"<p class='verdict infeasible'>Infeasible. Nearest miss: <code>{recipe}</code>; it violates {missed}.{notes}</p>"


def _answer_table(answer: Answer) -> str:
    if not answer.rows:
        return ""
    heads = ("top-1 %", "drop, points", "p50 ms", "speed-up", "MB", "smaller", "M params", "MMACs", "EER")
    head = "<th></th>" + "".join(f"<th class='n'>{text}</th>" for text in heads) + "<th>recipe</th>"
    rows = ""
    for row in answer.rows:
        cells = "".join(f"<td class='n'>{html.escape(text)}</td>" for text in row_cells(row.values))
        rows += f"<tr class='{row.role.split()[0]}'><td>{html.escape(row.role)}</td>{cells}<td><code>{html.escape(short_recipe(row.recipe))}</code></td></tr>"
    return f"<h2>Answer, measured in one session on the test split</h2><table><tr>{head}</tr>{rows}</table>"


def _leave_one_out(answer: Answer) -> str:
    whole = next((row for row in answer.rows if row.role == "recipe"), None)
    parts = [row for row in answer.rows if row.role.startswith("without ")]
    if whole is None or not parts:
        return ""
    lines = []
    for row in parts:
        slower = row.values["latency_ratio"].value / whole.values["latency_ratio"].value
        larger = row.values["size"].value / whole.values["size"].value
        points = 100 * (row.values["accuracy"].value - whole.values["accuracy"].value)
        technique = html.escape(row.role.removeprefix("without "))
        lines.append(f"<tr><td>{technique}</td><td class='n'>{slower:.2f}x</td><td class='n'>{larger:.2f}x</td><td class='n'>{points:+.2f}</td></tr>")
    head = "<tr><th>left out</th><th class='n'>latency becomes</th><th class='n'>file becomes</th><th class='n'>top-1, points</th></tr>"
    return f"<h2>What each technique bought</h2><table>{head}{''.join(lines)}</table>"


def _group(trial: TrialRecord, budget: Budget) -> str:
    if trial.fidelity < 1:
        return "low rung"
    return "breaks a limit" if violations(trial, budget.hard_limits) else "fits"


def _scatter(archive: Archive, budget: Budget) -> go.Figure:
    """Accuracy against latency relative to the base; the area of a mark is the file's size."""
    import plotly.graph_objects as go

    figure = go.Figure()
    complete = [trial for trial in archive if trial.status == "complete"]
    for name, colour in COLOURS.items():
        chosen = [trial for trial in complete if _group(trial, budget) == name]
        figure.add_scatter(
            x=[trial.get("latency_ratio") for trial in chosen],
            y=[100 * trial.get("accuracy") for trial in chosen],
            mode="markers",
            name=name,
            marker={"color": colour, "size": [7 + 18 * min(1.0, trial.get("size_ratio")) for trial in chosen], "opacity": 0.75},
            text=[short_recipe(trial.recipe) for trial in chosen],
            hovertemplate="%{text}<br>latency x %{x:.3f}, top-1 %{y:.2f} %<extra></extra>",
        )
    front = sorted(archive.front(budget.hard_limits, senses(budget)), key=lambda trial: trial.get("latency_ratio"))
    figure.add_scatter(
        x=[trial.get("latency_ratio") for trial in front],
        y=[100 * trial.get("accuracy") for trial in front],
        mode="lines",
        name="feasible front",
        line={"color": "#1a7f4b", "dash": "dot"},
        hoverinfo="skip",
    )
    figure.update_layout(
        xaxis_title="latency / base (ONNX Runtime fp32)", yaxis_title="top-1 on validation, %", height=480, template="plotly_white", margin={"t": 20}
    )
    return figure


def _cost(archive: Archive, answer: Answer | None) -> str:
    seconds: dict[str, float] = {}
    for trial in archive:
        for part, value in trial.seconds.items():
            seconds[part] = seconds.get(part, 0.0) + value
    statuses = [trial.status for trial in archive]
    text = f"{len(statuses)} trials: {statuses.count('complete')} complete, {statuses.count('gated')} gated before training, {statuses.count('failed')} failed. "
    parts = ", ".join(f"{part} {value:.0f} s" for part, value in sorted(seconds.items(), key=lambda pair: -pair[1]))
    total = "" if answer is None or not answer.cost else f"{answer.cost['wall_seconds'] / 60:.1f} min wall time, {answer.cost['core_hours']:.2f} core-hours. "
    return f"<p>{total}{text}In trials: {parts}.</p>"


def _trials(archive: Archive, budget: Budget) -> str:
    names = list(dict.fromkeys(["accuracy", "latency_ratio", "size_ratio", *budget.limits, *budget.optimize]))
    head = "".join(f"<th class='n'>{html.escape(name)}</th>" for name in names)
    rows = "".join(_trial_row(trial, names, budget) for trial in archive)
    return f"<div class='scroll'><table><tr><th>status</th><th>training</th>{head}<th>recipe</th></tr>{rows}</table></div>"


def _trial_row(trial: TrialRecord, names: Sequence[str], budget: Budget) -> str:
    status = trial.status if trial.status != "complete" else _group(trial, budget)
    cells = "".join(f"<td class='n'>{_number(trial.values, name)}</td>" for name in names)
    recipe = html.escape(short_recipe(trial.recipe))
    reason = f"<br>{html.escape(trial.message)}" if trial.message else ""
    return f"<tr><td>{status}</td><td>{trial.fidelity:.0%}</td>{cells}<td><code>{recipe}</code>{reason}</td></tr>"


def _number(values: Mapping[str, Any], name: str) -> str:
    return f"{values[name].value:.4g}" if name in values else ""


def _figure(figure: go.Figure, first: bool) -> str:
    return str(figure.to_html(full_html=False, include_plotlyjs=first))
