"""The trials of a run as a plotly figure, for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sousvit.search.archive import Archive
from sousvit.search.budget import Budget
from sousvit.search.report.page.points import state_of
from sousvit.search.report.terminal import short_recipe
from sousvit.search.trial import Trial, quality_of, word_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLOURS = {"fits": "#1a7f4b", "breaks a limit": "#c98a1b", "partly trained": "#9aa7b5"}


def scatter(archive: Archive, budget: Budget) -> go.Figure:
    """The figure of merit against latency relative to the base; a larger mark is a larger file."""
    import plotly.graph_objects as go

    assert archive.base is not None
    quality, word = quality_of(archive.base.values), word_of(archive.base.values)
    judged_on, figure = budget.data.validation_name, go.Figure()
    for state, colour in COLOURS.items():
        chosen = [trial for trial in archive if state_of(trial, budget) == state]
        sizes = [7 + 18 * min(1.0, trial.get("size_ratio")) for trial in chosen]
        figure.add_scatter(
            **_points(chosen, quality),
            mode="markers",
            name=state,
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
