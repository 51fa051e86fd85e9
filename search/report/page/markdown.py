"""A report as Markdown: what a pull request or a wiki takes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sousvit.search.report.page.content import Content, Light

_SIGNS = {"holds": "ok", "not shown": "not shown", "broken": "**missed**", "not measured": "not measured"}


def markdown(content: Content) -> str:
    """The answer, its limits, the tables; of the trials only how many there are."""
    lines = [f"# sousvit run {text(content.name)}", "", f"**{text(content.status)}**: {text(content.said)}", ""]
    lines += [code(content.recipe), ""] * bool(content.recipe)
    lines += [f"Why this one: {text(content.reason)}.", ""] * bool(content.reason)
    for one in content.headlines:
        interval = f" [{text(one.interval)}]" if one.interval else ""
        lines.append(f"- **{text(one.value)}**{interval} {text(one.title)}, {text(one.about)}")
    if content.limits:
        lights = [
            [f"{limit.name} {limit.bound}", _light(limit.search), _light(limit.answer)] for limit in content.limits
        ]
        lines += ["", *table(["limit", "in the search", "in the end"], lights)]
    lines += [f"\nNote: {text(note)}." for note in content.notes]
    if content.rows:
        rows = [[row.head, *row.cells, row.recipe] for row in content.rows]
        lines += ["", f"## Answer, measured in one session on {text(content.judged_on)}", ""]
        lines += table(["", *content.headings, "recipe"], rows)
    if content.parts:
        parts = [
            [part.technique, f"{part.faster:.2f}x", f"{part.smaller:.2f}x", f"{part.points:+.2f}"]
            for part in [*content.parts, *([content.saved_all] if content.saved_all else [])]
        ]
        lines += ["", "## What each technique brought", ""]
        lines += table(["", "times as fast", "times smaller", f"points of {content.merit}"], parts)
    if content.cuts:
        cuts = [[cut.part, cut.what, cut.base, cut.answer] for cut in content.cuts]
        lines += ["", "## What was cut", "", *table(["part", "", "base", "answer"], cuts)]
    if content.classes:
        classes = [[one.name, str(one.count), f"{one.base:.1f}", f"{one.answer:.1f}"] for one in content.classes]
        lines += ["", "## Classes", "", *table(["class", "images", "base %", "answer %"], classes)]
    lines += ["", "## Reproduce it", "", *(f"    {command}" for command in content.reproduce), ""]
    lines += [f"- {text(key)}: {text(fact)}" for key, fact in content.facts if fact]
    return "\n".join([*lines, "", text(content.cost)]) + "\n"


def _light(light: Light) -> str:
    parts = [_SIGNS[light.shown], light.figure, f"on {light.images}" if light.images else ""]
    return ", ".join(part for part in parts if part)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table; the first column and the last one are to the left."""
    form = ["---", *["---:"] * (len(headings) - 2), "---"]
    cells = [[text(cell) if cell not in _SIGNS.values() else cell for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in ([text(one) for one in headings], form, *cells)]


def text(value: str) -> str:
    """A text that no reader of Markdown takes for markup, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#!~])", r"\\\1", " ".join(value.split()))


def code(value: str) -> str:
    """A text as code, whatever backticks it holds."""
    flat = " ".join(value.split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", flat)), default=0))
    return f"{fence} {flat} {fence}" if "`" in flat else f"`{flat}`"
