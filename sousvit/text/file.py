"""Text files of bounded size: a pipe, a device or a file of gigabytes is refused, never waited for or read whole."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from sousvit.errors import UserError

#: Of one file. Names of 22,000 classes and paths of as many files take less.
MOST_BYTES = 2 << 20


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """The UTF-8 text of a regular file of at most ``most`` bytes.

    Raises:
        UserError: no such file, no regular file, larger, or no text.
    """
    try:
        content = _read(path, most + 1)
        if len(content) <= most:
            return content.decode("utf-8")
    except FileNotFoundError as error:
        raise UserError("the file must exist", path, "correct the path") from error
    except (OSError, ValueError) as error:
        raise UserError("the file must be readable text", f"{path}: {error}", "correct the path") from error
    raise UserError(f"a file of text has at most {most >> 20} MB", f"more in {path}", "name another, or shorten it")


def _read(path: Path, most: int) -> bytes:
    """At most so many bytes; opening never waits for the other end of a pipe."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("no regular file")
        return stream.read(most)
