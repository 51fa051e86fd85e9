"""Errors that a user can cause, each told in one clear line, and errors that end a single trial.

A :class:`UserError` reaches the command line without a traceback, as exit code 2. Asserts elsewhere are for our own
mistakes.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


#: What a terminal obeys instead of showing it: control characters but tabs and line feeds, and changes of direction.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")

#: Exit code of a command that told of a :class:`UserError`.
BAD_INPUT = 2
#: Exit code of a command that was interrupted (Ctrl-C).
INTERRUPTED = 130
#: An unknown name without a close match lists at most this many known ones.
MOST_NAMES = 24
#: Characters of each part of a message: what a user gave may be as long as a file.
MOST_CHARACTERS = 1000


class UserError(ValueError):
    """Input that breaks a rule. Its message is one line: the rule; what was received; what to do.

    Args:
        rule: what must hold.
        received: what was given instead.
        action: what the user can do about it.
    """

    def __init__(self, rule: str, received: object = None, action: str = "") -> None:
        self.rule, self.received, self.action = rule, received, action
        parts = [rule.rstrip(".")]
        if received is not None:
            parts.append(f"received {received}")
        if action:
            parts.append(action.rstrip("."))
        text = printable(" ".join("; ".join(map(_cut, parts)).split()))
        # File names that are no text cannot be printed: what stands for their bytes is replaced.
        super().__init__(text.encode("utf-8", "replace").decode())

    def __reduce__(self) -> tuple[type, tuple[str, str | None, str]]:
        # As text: what was received (an exception, a parser node) may not pickle, and workers send errors home.
        return type(self), (self.rule, None if self.received is None else str(self.received), self.action)


class UnknownNameError(UserError):
    """A name that no registry entry has; the message lists close matches, or all names."""

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        close = get_close_matches(str(name), self.known, n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else _choices(self.known)
        super().__init__(f"{kind} must be a known name", repr(name), hint)

    def __reduce__(self) -> tuple[type, tuple[str, object, list[str]]]:  # type: ignore[override]
        return type(self), (self.kind, self.name, self.known)


def _cut(text: str) -> str:
    """The beginning and the end of a long text."""
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 200]} ... {text[-190:]}"


def _choices(names: list[str]) -> str:
    """All names when they fit in a line, otherwise the first ones and the count."""
    if not names:
        return "none is registered"
    shown = names if len(names) <= MOST_NAMES else [*names[:MOST_NAMES], f"... ({len(names)} in all)"]
    return f"choose one of {', '.join(shown)}"


class SharedInputError(UserError):
    """A fault in what every trial needs (the data, the disk): a search stops, and is resumed once it is mended."""


class MissingPackageError(UserError):
    """An optional package that the request needs is not installed."""

    def __init__(self, package: str, needed_for: str, extra: str) -> None:
        self.args_ = (package, needed_for, extra)
        super().__init__(
            f"{needed_for} needs the package {package}", "none installed", f'pip install "sousvit[{extra}]"'
        )

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), self.args_


def one_line(error: BaseException) -> str:
    """The kind of ``error`` and the first line of its message, at most 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = printable(f"{type(error).__name__}: {lines[0] if lines else 'no message'}")
    return text if len(text) <= 200 else f"{text[:197]}..."


def printable(text: str) -> str:
    """``text`` with everything that a terminal would obey written out, such as ``\\x1b``: files and devices of others
    choose their own words."""
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class TrialError(RuntimeError):
    """A trial could not be finished for a reason of its own; it is recorded as failed and the search goes on."""

    def __init__(self, reason: object = "") -> None:
        super().__init__(printable(str(reason)))


class TrainingDivergedError(TrialError):
    """The training loss became NaN or infinite."""
