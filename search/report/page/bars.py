"""Bars of the page's tables: where each begins and ends, in per cent of the width that it has."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sousvit.search.report.page.content import WHOLE, Content, Cut, LatencyRow, Part

#: Less than this much of the whole factor (in logs) that no technique has alone is not worth a row.
LEAST_REST = 0.01


@dataclass(frozen=True)
class Bar:
    """A bar from ``start`` over ``width`` per cent, and what stands beside it."""

    label: str
    text: str
    start: float
    width: float
    kind: str


def waterfall(parts: list[Part], whole: Part | None, figure: str) -> list[Bar]:
    """A bar a technique from the base to the whole recipe, in logs, because factors multiply.

    What the techniques bring together beyond what each brings to the others is a bar of its own.

    Args:
        figure: ``faster`` or ``smaller``.
    """
    if whole is None or not parts:
        return []
    total = math.log(getattr(whole, figure))
    steps = [(part.technique, math.log(getattr(part, figure))) for part in parts]
    rest = total - sum(step for _, step in steps)
    if abs(rest) > LEAST_REST:
        steps.append(("together, or not measured alone", rest))
    ends = [0.0]
    for _, step in steps:
        ends.append(ends[-1] + step)
    low, high = min(ends), max(*ends, min(ends) + 1e-9)

    def bar(label: str, first: float, last: float, kind: str) -> Bar:
        left, right = sorted(100 * (end - low) / (high - low) for end in (first, last))
        return Bar(label, f"{math.exp(last - first):.2f}x", round(left, 2), round(max(right - left, 0.5), 2), kind)

    rows = [
        bar(label, first, first + step, "better" if step >= 0 else "worse")
        for (label, step), first in zip(steps, ends, strict=False)
    ]
    return [*rows, bar(whole.technique, 0.0, total, "total")]


@dataclass(frozen=True)
class LatencyBar:
    """Where percentiles lie, in per cent of the width, on one scale for all rows."""

    row: LatencyRow
    low: float
    high: float
    p50: float
    p95: float
    p99: float


def latency_bars(rows: list[LatencyRow]) -> list[LatencyBar]:
    """Percentiles of every row, on a scale of logs: an answer may be thirty times as fast as the base."""
    if not rows:
        return []
    low = min(row.low for row in rows) * 0.9
    high = max(row.p99 for row in rows) * 1.1

    def place(value: float) -> float:
        return round(100 * math.log(value / low) / math.log(high / low), 2)

    return [LatencyBar(row, *map(place, (row.low, row.high, row.p50, row.p95, row.p99))) for row in rows]


@dataclass(frozen=True)
class BlockTable:
    """Cuts of blocks as a table: a row a block, a column a quantity; None where a block has no such cut."""

    columns: list[str]
    rows: dict[str, list[Cut | None]]


def block_table(cuts: list[Cut]) -> BlockTable:
    """The cuts that are of blocks, not of the whole network."""
    of_blocks = [cut for cut in cuts if cut.part != WHOLE]
    columns = list(dict.fromkeys(cut.what for cut in of_blocks))
    rows = {part: {cut.what: cut for cut in of_blocks if cut.part == part} for part in {c.part: 0 for c in of_blocks}}
    return BlockTable(columns, {part: [found.get(column) for column in columns] for part, found in rows.items()})


def sensitivity_bars(content: Content) -> list[Bar]:
    """A bar a block, as a share of the most sensitive one's."""
    most = max(content.sensitivity.values(), default=0.0)
    return [
        Bar(name, f"{value:.3g}", 0.0, round(100 * max(value, 0.0) / most, 2) if most > 0 else 0.0, "plain")
        for name, value in content.sensitivity.items()
    ]
