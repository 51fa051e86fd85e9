"""The gate: rejects a candidate by a hard limit before anything expensive is done.

Three moments, cheapest first: :func:`analytic_values` from shapes alone (here, in microseconds); the
untrained artifact, measured by the worker; the trained artifact. Each compares what is known so far with
:func:`broken_limits`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

from sousvit.objectives.objective import Measurement
from sousvit.search.limits import Limit

if TYPE_CHECKING:
    from sousvit.search.trial import TrialRecord
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


def broken_limits(values: Mapping[str, Measurement], limits: Iterable[Limit]) -> dict[str, float]:
    """Signed violations above 0 of the limits whose values are known."""
    known = {limit.name: limit.violation(values[limit.name]) for limit in limits if limit.name in values}
    return {name: violation for name, violation in known.items() if violation > 0}


def explain(broken: Mapping[str, float], values: Mapping[str, Measurement], limits: Iterable[Limit]) -> str:
    """One phrase a broken limit."""
    return "; ".join(limit.phrase(values.get(limit.name)) for limit in limits if limit.name in broken)


def rejection(
    values: Mapping[str, Measurement],
    limits: Sequence[Limit],
    rivals: Iterable[Mapping[str, float]],
    senses: Mapping[str, bool],
) -> str:
    """Why an untrained candidate need not be trained, or "" when it is worth it; see :func:`dominated`."""
    broken = broken_limits(values, limits)
    if broken:
        return f"gated untrained: {explain(broken, values, limits)}"
    if dominated(values, rivals, senses):
        return f"gated untrained: a finished recipe is better in {' and '.join(senses)}"
    return ""


def dominated(
    values: Mapping[str, Measurement], rivals: Iterable[Mapping[str, float]], senses: Mapping[str, bool]
) -> bool:
    """Whether a candidate is surely worse than one of ``rivals`` in every optimised objective, before it is trained.

    Args:
        values: the candidate's figures so far; figures with an interval count at its better end.
        rivals: figures of finished recipes that hold every limit.
        senses: per optimised objective whether more is better; one that is not known yet settles nothing.
    """
    if any(name not in values for name in senses):
        return False
    ends = {name: _better_end(values[name], more) for name, more in senses.items()}

    def is_better(rival: Mapping[str, float]) -> bool:
        return all(rival[name] > ends[name] if more else rival[name] < ends[name] for name, more in senses.items())

    return any(is_better(rival) for rival in rivals)


def _better_end(value: Measurement, more: bool) -> float:
    end = value.high if more else value.low
    return value.value if end is None else end


def seconds_saved(trials: Iterable[TrialRecord]) -> float:
    """What the gated recipes would have cost at their rung, by the median of those that were finished.

    An estimate: a gated recipe is often smaller or larger than a finished one. 0 where nothing was finished.
    """
    from sousvit.spaces.recipe import Recipe

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
        judging + training * trial.fidelity * Recipe.from_dict(trial.recipe).trains
        for trial in records
        if trial.status == "gated"
    )
