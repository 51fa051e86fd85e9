"""Amounts that are written with units: ``30m``, ``1h30m``, ``2 MB``, ``91%``."""

from __future__ import annotations

import re

#: Longer text is no amount, and is not looked at: patterns that go back would take the square of its length.
MOST_CHARACTERS = 64
#: A number, its unit (which may be none), and the spaces around them.
AMOUNT = re.compile(r"\s*([-+]?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)\s*([A-Za-z%]*)\s*")


def amounts(text: str) -> list[tuple[float, str]]:
    """Numbers with their units, in lower case: ``1h30m`` is ``[(1.0, "h"), (30.0, "m")]``; empty for other text."""
    found: list[tuple[float, str]] = []
    place = 0
    while place < len(text) <= MOST_CHARACTERS:
        match = AMOUNT.match(text, place)
        if match is None:
            return []
        found.append((float(match[1]), match[2].lower()))
        place = match.end()
    return found


def amount(text: str) -> tuple[float, str] | None:
    """The number and its unit, in lower case; None for other text."""
    found = amounts(text)
    return found[0] if len(found) == 1 else None
