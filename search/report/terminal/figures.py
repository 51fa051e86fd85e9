"""Figures of a final table's rows as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sousvit.objectives.objective import Measurement, get_objective
from sousvit.search.budget import Budget
from sousvit.search.report.terminal.words import show
from sousvit.search.results import Row
from sousvit.search.trial import quality_of, word_of

#: Column headings for :func:`row_cells`, behind the task's figure of merit.
HEADINGS = ("drop, points", "p50 ms", "speed-up", "MB", "smaller", "M params", "MMACs", "EER")


def headings(budget: Budget, rows: Sequence[Row]) -> list[str]:
    """Column headings for :func:`row_cells`: usual figures, the speed on each further target, what else was asked."""
    values = rows[0].values if rows else {}
    further = [f"{what} {target.label}" for target in budget.targets[1:] for what in ("p50 ms", "speed-up")]
    others = [(name, get_objective(name).unit) for name in _asked(budget, values)]
    asked = [name if name.endswith(unit) else f"{name}, {unit}" for name, unit in others]
    return [f"{word_of(values)} %", *HEADINGS, *further, *asked]


def _asked(budget: Budget, values: Mapping[str, Measurement]) -> list[str]:
    """Objectives that the budget names and no usual column shows, a user's own among them."""
    quality, places = quality_of(values), [target.label for target in budget.targets]
    shown = {quality, f"{quality}_drop", "size", "size_ratio", "params", "macs", "eer", "latency", "latency_ratio"}
    shown |= {f"{name}@{place}" for name in ("latency", "latency_ratio") for place in places}
    return [name for name in dict.fromkeys([*budget.optimize, *budget.limits]) if name not in shown]


def row_cells(values: Mapping[str, Measurement], budget: Budget) -> list[str]:
    """The figures of one row as text: those with an interval with it."""
    quality = quality_of(values)
    drop = values[f"{quality}_drop"]
    speeds = [_speed(values, f"@{target.label}") for target in budget.targets[1:]]
    return [
        f"{100 * values[quality].value:.2f}",
        interval(100 * drop.value, drop, lambda value: 100 * value, "{:+.2f}"),
        *_speed(values),
        f"{values['size'].value:.3f}",
        f"{1 / values['size_ratio'].value:.2f}x",
        f"{values['params'].value:.3f}",
        f"{values['macs'].value:.1f}",
        f"{values['eer'].value:.3f}" if "eer" in values else "-",
        *(cell for pair in speeds for cell in pair),
        *(show(values[name]) if name in values else "-" for name in _asked(budget, values)),
    ]


def _speed(values: Mapping[str, Measurement], place: str = "") -> tuple[str, str]:
    ratio = values[f"latency_ratio{place}"]
    return (
        f"{values[f'latency{place}'].value:.3f}",
        interval(1 / ratio.value, ratio, lambda value: 1 / value, "{:.2f}"),
    )


def interval(shown: float, value: Measurement, convert: Callable[[float], float], pattern: str, unit: str = "") -> str:
    """A figure, with its unit, and its converted interval, if any."""
    text = pattern.format(shown + 0.0) + unit  # no -0.00
    if value.low is None or value.high is None:
        return text
    low, high = sorted((convert(value.low), convert(value.high)))
    return f"{text} [{pattern.format(low)}, {pattern.format(high)}]"


def lost_points(drop: Measurement, unit: str = "") -> str:
    """A drop as a change in points: ``-1.84 [-2.67, -1.01]``."""
    return interval(-100 * drop.value, drop, lambda value: -100 * value, "{:+.2f}", unit)


def compared(name: str, value: Measurement) -> str:
    """A ratio to the base's cost in words: ``2.50x as fast [2.44, 2.57]``, ``5.60x smaller``, ``1.39x larger``."""
    if name == "latency":
        return interval(1 / value.value, value, lambda ratio: 1 / ratio, "{:.2f}", "x as fast")
    small, large = ("smaller", "larger") if name == "size" else (f"less {name}", f"more {name}")
    if value.value <= 1:
        return interval(1 / value.value, value, lambda ratio: 1 / ratio, "{:.2f}", f"x {small}")
    return interval(value.value, value, lambda ratio: ratio, "{:.2f}", f"x {large}")


def costs_asked(budget: Budget, values: Mapping[str, Measurement]) -> list[str]:
    """The costs that a budget names, what is optimised first, without their relative forms; then latency and size."""
    found: dict[str, None] = {}
    for asked in (*budget.optimize, *budget.limits, "latency", "size"):
        name = asked.removesuffix("_ratio").removesuffix("_drop")
        if name in values and get_objective(name).unit not in ("share", "ratio"):
            found[name] = None
    return list(found)
