"""Text files of bounded size: a pipe, a device or a file of gigabytes is refused, never waited for or read whole."""

from __future__ import annotations

from pathlib import Path

from sousvit.errors import SharedInputError, UserError
from sousvit.files import open_file

#: Of one file. Names of 22,000 classes and paths of as many files take less.
MOST_BYTES = 2 << 20


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """The UTF-8 text of a regular file of at most ``most`` bytes.

    Raises:
        UserError: no such file, no regular file, larger, or no text.
    """
    try:
        with open_file(path) as stream:
            content = stream.read(most + 1)
        if len(content) <= most:
            return content.decode("utf-8")
    except FileNotFoundError as error:
        raise UserError("the file must exist", path, "correct the path") from error
    except SharedInputError as error:
        raise UserError("the file must be readable text", error.received, "correct the path") from error
    except (OSError, ValueError) as error:
        raise UserError("the file must be readable text", f"{path}: {error}", "correct the path") from error
    raise UserError(f"a file of text has at most {most >> 20} MB", f"more in {path}", "name another, or shorten it")
