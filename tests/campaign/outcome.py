"""What came of an attack, how a refusal must be told, and the table of all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random

from sousvit.errors import TrialError, UserError, one_line

#: Characters of a refusal.
LONGEST_LINE = 6000


@dataclass(frozen=True)
class Outcome:
    """One attack.

    Attributes:
        kind: what was attacked, and how, in a few words: a line of the table.
        finding: what went wrong, in one line; "" where sousvit stood it.
    """

    kind: str
    finding: str = ""


def fault_of(error: BaseException) -> str:
    """What is wrong with a refusal: it is no user's error, or not one line that can be printed; "" where it is good."""
    if not isinstance(error, UserError | TrialError):
        return one_line(error)
    return fault_of_line(str(error))


def fault_of_line(text: str) -> str:
    """What is wrong with a line that a user is told; "" where it is good."""
    if "\n" in text or not text.isprintable():
        return f"not one printable line: {text[:300]!r}"
    return f"a line of {len(text)} characters: {text[:300]}" if len(text) > LONGEST_LINE else ""


def grouped(numbers: range, size: int) -> Iterator[tuple[int, range]]:
    """Attacks that are made ``size`` at a time: each group's number, and those of its attacks that are wanted.

    A group is made whole, so that an attack depends on its number and the seed alone.
    """
    for group in range(numbers.start // size, -(-numbers.stop // size)):
        begin = group * size
        yield group, range(max(numbers.start, begin) - begin, min(numbers.stop, begin + size) - begin)


def chance_of(seed: int, number: int) -> Random:
    """What an attack draws its choices from."""
    return Random(f"{seed} {number}")


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
