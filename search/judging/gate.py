"""The gate: rejects a candidate by a hard limit before anything expensive is done.

Three moments, cheapest first: :func:`analytic_values` from shapes alone (here, in microseconds); the
untrained artifact, measured by the worker; the trained artifact. Each compares what is known so far with the goals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median
from typing import TYPE_CHECKING

from sousvit.objectives.objective import Measurement
from sousvit.search.goals import Goals

if TYPE_CHECKING:
    from sousvit.search.trial import Trial
    from sousvit.spaces.recipe import Recipe
    from sousvit.spaces.shape import ModelShape


def analytic_values(recipe: Recipe, shape: ModelShape, base: Mapping[str, Measurement]) -> dict[str, Measurement]:
    """What follows from the shape (parameters and MACs; a lower bound of the file size), also relative to the base.

    Args:
        shape: the base's shape.
        base: the base's figures.
    """
    values = recipe.reshape(shape).figures(recipe.bytes_per_weight)
    ratios = {f"{name}_ratio": value / base[name].value for name, value in values.items() if name in base}
    return {name: Measurement(value) for name, value in {**values, **ratios}.items()}


def rejection(values: Mapping[str, Measurement], goals: Goals, rivals: Iterable[Mapping[str, float]]) -> str:
    """Why an untrained candidate need not be trained, or "" when it is worth it.

    Args:
        values: the candidate's figures so far.
        rivals: figures of finished recipes that hold every limit: what cannot beat one of them anywhere is not trained.
    """
    broken = goals.explain(values, measured_only=True)
    if broken:
        return f"gated untrained: {'; '.join(broken)}"
    if any(goals.dominates(rival, values) for rival in rivals):
        return f"gated untrained: a finished recipe is better in {' and '.join(goals.directions)}"
    return ""


def seconds_saved(trials: Iterable[Trial]) -> float:
    """What the gated recipes would have cost at their rung, by the median of those that were finished.

    An estimate: a gated recipe is often smaller or larger than a finished one. 0 where nothing was finished.
    """
    records = list(trials)
    done = [trial.seconds for trial in records if trial.status == "complete" and trial.seconds]
    trained = [
        trial.seconds["recover"] / trial.fidelity
        for trial in records
        if trial.status == "complete" and trial.seconds.get("recover")
    ]
    if not done:
        return 0.0
    judging = median(seconds.get("export", 0.0) + seconds.get("judge", 0.0) for seconds in done)
    training = median(trained) if trained else 0.0
    return sum(
        judging + training * trial.fidelity * trial.parsed.trains for trial in records if trial.status == "gated"
    )
