"""Paths as a user writes them: relative to a folder, with ``~`` for a home."""

from __future__ import annotations

import os
from pathlib import Path

from sousvit.errors import UserError

#: What systems take; looking up the parts of a longer one takes the square of its length.
MOST_CHARACTERS = 4096


def at_home(given: str | os.PathLike[str]) -> Path:
    """A path whose ``~`` is replaced.

    Raises:
        UserError: no such user, or no path at all.
    """
    text = str(given)
    if len(text) > MOST_CHARACTERS or "\0" in text:
        problem = f"one of {len(text)}" if len(text) > MOST_CHARACTERS else f"{text!r}, with a character NUL"
        raise UserError(f"a path has at most {MOST_CHARACTERS} characters, none of them NUL", problem, "correct it")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError("~ stands for the home of a user", text, "write the whole path") from error


def absolute(given: str | os.PathLike[str], folder: Path) -> str:
    """An absolute path, which starts in ``folder`` where it is relative; links are not followed.

    Raises:
        UserError: see :func:`at_home`.
    """
    return os.path.abspath(folder / at_home(given))  # noqa: PTH100 - resolve() follows links


def resolved(given: str | os.PathLike[str], folder: Path) -> Path:
    """An absolute path, which starts in ``folder`` where it is relative; links are followed.

    Raises:
        UserError: see :func:`at_home`; or links that lead in a circle.
    """
    try:
        return (folder / at_home(given)).resolve()
    except (OSError, RuntimeError) as error:
        raise UserError("a path must lead somewhere", f"{given}: {error}", "correct the path") from error


def exists(path: Path) -> bool:
    """Whether something is there; no system finds a path that is too long for it."""
    try:
        return path.exists()
    except OSError:
        return False
