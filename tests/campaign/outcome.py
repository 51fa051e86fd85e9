"""What came of an attack, and the table of all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """One attack.

    Attributes:
        kind: what was attacked, and how, in a few words: a line of the table.
        finding: what went wrong, in one line; "" where sousvit stood it.
    """

    kind: str
    finding: str = ""


def table(outcomes: Iterable[Outcome]) -> list[str]:
    """The lines of a Markdown table: attacks by kind, how many of them sousvit stood, and what went wrong."""
    by_kind: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_kind.setdefault(outcome.kind, []).append(outcome)
    lines = ["| attack | tried | stood |", "|---|---:|---:|"]
    lines += [
        f"| {kind} | {len(found):,} | {sum(not one.finding for one in found):,} |"
        for kind, found in sorted(by_kind.items())
    ]
    told = sorted({f"- {one.kind}: {one.finding}" for found in by_kind.values() for one in found if one.finding})
    return [*lines, *(["", "Findings:", "", *told] if told else [])]
