"""Files that a user names, opened only where they are regular files, and read within stated bounds.

A named pipe would be waited on for ever, /dev/zero has no end, and a small compressed file may hold more than the
memory does. So every such file is opened here, or looked at here before a library opens it by its name.
"""

from __future__ import annotations

import gzip
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, cast

from sousvit.errors import SharedInputError

#: Bytes of a file of text that is read whole: tables of paths, lists of names, COCO's annotations.
MOST_TEXT = 1 << 30
#: Bytes of a file that describes another: a config, a sidecar, an index.
MOST_DESCRIPTION = 64 << 20

_OTHER_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def require_file(path: Path) -> int:
    """The size in bytes of a regular file; links are followed.

    Raises:
        OSError: nothing is there, or it cannot be reached.
        SharedInputError: something else is there.
    """
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise SharedInputError("a file is read from a disk", f"{path}, {_kind(state.st_mode)}", "name a regular file")
    return state.st_size


def require_file_or_folder(path: Path) -> None:
    """Refuse pipes, sockets and devices; links are followed.

    Raises:
        OSError: nothing is there, or it cannot be reached.
        SharedInputError: something else is there.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise SharedInputError("data is files and folders", f"{path}, {_kind(mode)}", "name a regular file or a folder")


def _kind(mode: int) -> str:
    return next((name for is_one, name in _OTHER_KINDS if is_one(mode)), "no regular file")


def open_file(path: Path) -> BinaryIO:
    """A regular file, opened for reading.

    Raises:
        OSError: it is not there, or cannot be read.
        SharedInputError: something else is there.
    """
    require_file(path)
    # A pipe may take its place after that look: it is opened without waiting for a writer, and looked at again.
    stream = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")
    mode = os.fstat(stream.fileno()).st_mode
    if not stat.S_ISREG(mode):
        stream.close()
        raise SharedInputError("a file is read from a disk", f"{path}, {_kind(mode)}", "name a regular file")
    return stream


def open_inflated(path: Path) -> BinaryIO:
    """The content of a regular file, of gzip what it holds; whoever reads bounds what is read.

    Raises:
        OSError: it is not there, or cannot be read.
        SharedInputError: something else is there.
    """
    stream = cast(BufferedReader, open_file(path))
    if stream.peek(2)[:2] == b"\x1f\x8b":
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream))
    return stream


def read_bytes(path: Path, what: str, most: int = MOST_TEXT) -> bytes:
    """All bytes of a regular file.

    Args:
        what: the file is, for messages.
        most: bytes that it may have.

    Raises:
        SharedInputError: it cannot be read, is no regular file, or is larger.
    """
    try:
        with open_file(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > most:
                raise too_large(path, what, size, most)
            return stream.read(size)
    except SharedInputError:
        raise
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error  # a ValueError tells of a NUL in the path
        raise SharedInputError(
            f"{what} must be readable", f"{path}: {said}", "correct the path, or repair it"
        ) from error


def read_text(path: Path, what: str, most: int = MOST_TEXT, encoding: str = "utf-8") -> str:
    """The text of a regular file.

    Raises:
        SharedInputError: see :func:`read_bytes`; or it is not of this encoding.
    """
    data = read_bytes(path, what, most)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise SharedInputError(f"{what} is a text file (UTF-8)", f"{path}: {error}", "write it again") from error


def too_large(path: Path | str, what: str, size: int, most: int) -> SharedInputError:
    """The error of a file that holds, or announces, more than is read."""
    rule, received = f"{what} holds at most {in_bytes(most)}", f"{in_bytes(size)} in {path}"
    return SharedInputError(rule, received, "correct the path, or make it smaller")


def in_bytes(count: int) -> str:
    """A number of bytes as people write it."""
    for factor, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= factor:
            return f"{count / factor:.3g} {unit}" if count < 1000 * factor else f"{count // factor:,} {unit}"
    return f"{count} bytes"
