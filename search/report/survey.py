"""A survey as a table (Markdown) and a plot (HTML)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sousvit.files import write_atomic
from sousvit.objectives.objective import Measurement
from sousvit.search.archive import Archive
from sousvit.search.report.terminal import short_step
from sousvit.search.trial import Trial, quality_of, word_of
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.technique import Role

if TYPE_CHECKING:
    import plotly.graph_objects as go

#: Behind the technique and the task's figure of merit.
HEADINGS = ("drop, points", "speed-up", "MB", "smaller", "zipped MB", "MMACs", "EER", "recipe")


def write_survey(archive: Archive, folder: Path) -> tuple[Path, Path]:
    """Write ``study.md`` and ``study.html``; returns both paths."""
    table, page = folder / "study.md", folder / "study.html"
    write_atomic(table, markdown(archive))
    write_atomic(page, plot(archive).to_html(full_html=True, include_plotlyjs=True))
    return table, page


def markdown(archive: Archive) -> str:
    """One row a recipe; the figure of merit while judging, 95% intervals in brackets."""
    assert archive.base is not None
    headings = ("technique", f"{word_of(archive.base.values)} %", *HEADINGS)
    lines = [f"| {' | '.join(headings)} |", "|---|" + "---:|" * (len(headings) - 2) + "---|"]
    lines += [f"| {' | '.join(_cells(trial))} |" for trial in archive]
    return "\n".join(lines) + "\n"


def _cells(trial: Trial) -> list[str]:
    recipe = full_recipe(trial.recipe)
    if trial.status != "complete":
        return [trial.origin, *[""] * len(HEADINGS), f"{recipe}: {trial.status}, {trial.message}"]
    ratio, quality = trial.values["latency_ratio"], quality_of(trial.values)
    speed = _span(Measurement(1 / ratio.value, _inverse(ratio.high), _inverse(ratio.low)), 1, 2)
    return [
        trial.origin,
        f"{100 * trial.get(quality):.2f}",
        _span(trial.values[f"{quality}_drop"], 100, 2),
        speed,
        f"{trial.get('size'):.2f}",
        f"{1 / trial.get('size_ratio'):.2f}x",
        f"{trial.get('size_compressed'):.2f}",
        f"{trial.get('macs'):.1f}",
        f"{trial.get('eer'):.3f}" if "eer" in trial.values else "-",
        recipe,
    ]


def full_recipe(plain: Mapping[str, Any]) -> str:
    """A recipe with every parameter that tells two settings of a technique apart; of recovery, how long it is."""
    words = []
    for step in Recipe.from_dict(dict(plain)).steps:
        values = {} if step.role is Role.REPAIR else step.config.model_dump(mode="json")
        telling = [f"{value:g}" if isinstance(value, float) else str(value) for value in values.values()
                   if not (isinstance(value, bool) or value is None)]  # fmt: skip
        words.append(f"{step.technique}({', '.join(telling)})" if telling else short_step(step.to_dict()))
    return " + ".join([*words, str(plain["runtime"])])


def _inverse(number: float | None) -> float | None:
    return None if number is None else 1 / number


def _span(value: Measurement, factor: float, digits: int) -> str:
    text = f"{factor * value.value:.{digits}f}"
    if value.low is None or value.high is None:
        return text
    return f"{text} [{factor * value.low:.{digits}f}, {factor * value.high:.{digits}f}]"


def plot(archive: Archive) -> go.Figure:
    """The figure of merit against speed-up, one colour a technique; a larger mark is a larger file."""
    import plotly.graph_objects as go

    assert archive.base is not None
    figure, word = go.Figure(), word_of(archive.base.values)
    complete = [trial for trial in archive if trial.status == "complete"]
    for name in dict.fromkeys(trial.origin for trial in complete):
        chosen = [trial for trial in complete if trial.origin == name]
        figure.add_scatter(
            x=[1 / trial.get("latency_ratio") for trial in chosen],
            y=[100 * trial.get(quality_of(trial.values)) for trial in chosen],
            mode="markers",
            name=name,
            marker={"size": [7 + 18 * min(1.0, trial.get("size_ratio")) for trial in chosen], "opacity": 0.75},
            text=[full_recipe(trial.recipe) for trial in chosen],
            hovertemplate="%{text}<br>%{x:.2f}x faster, " + word + " %{y:.2f} %<extra></extra>",
        )
    axes = {"xaxis_title": "speed-up over the base (ONNX Runtime fp32)", "yaxis_title": f"{word} while judging, %"}
    figure.update_layout(**axes, height=720, template="plotly_white")
    return figure
