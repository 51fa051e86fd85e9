"""Files: opened only where they are regular, written whole or not at all, told apart by content; errors of the disk.

A named pipe would be waited on for ever, /dev/zero has no end, and a small compressed file may hold more than the
memory does. So every file that a user names is opened here, or looked at here before a library opens it by its name.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import math
import os
import re
import shutil
import stat
import tempfile
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from sousvit.errors import SharedInputError, UserError
from sousvit.faults import path_fault

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Files of a data set are read whole for its digest up to so many bytes (a second from a warm disk).
HASHED_BYTES = 256 << 20

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

#: What file systems without locks (some network mounts) answer to one who asks for a lock.
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


@contextmanager
def disk_errors_as_user_errors(path: Path) -> Iterator[None]:
    """Turn a fault of the disk, a read-only or forbidden folder into a :class:`SharedInputError` naming ``path``."""
    try:
        yield
    except OSError as error:
        fault = path_fault(error, path)
        if fault is None:
            raise
        raise fault from error


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write ``content`` so that a reader (or a crash) never sees half a file.

    Raises:
        SharedInputError: the disk does not take it; an older file stays as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    with disk_errors_as_user_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


#: What :mod:`tempfile` calls a folder that becomes another when it is whole.
_UNFINISHED = re.compile(r"\..+\.[a-z0-9_]{8}")


def remove_unfinished(folder: Path) -> None:
    """Remove the half-made folders that killed processes left in ``folder``, as far as its owner may."""
    for path in folder.glob(".*"):
        if _UNFINISHED.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values of equal types give equal text, in every process."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    """A value that JSON has a type for: sets as sorted lists, numpy values as numbers, the rest as text."""
    if isinstance(value, set | frozenset):
        return sorted(value, key=canonical_json)
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


def content_hash(*parts: Any, length: int = 16) -> str:
    """Hex digest of the canonical JSON of ``parts``, bytes as they are; ``("ab", "c")`` and ``("a", "bc")`` differ."""
    digest = hashlib.sha256()
    for part in parts:
        kind, data = ("bytes", part) if isinstance(part, bytes) else ("json", canonical_json(part).encode())
        digest.update(f"{kind}{len(data)}:".encode())
        digest.update(data)
    return digest.hexdigest()[:length]


def file_hash(path: Path, length: int = 16) -> str:
    """Hex digest of a regular file's bytes."""
    digest = hashlib.sha256()
    with open_file(path) as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:length]


def files_hash(files: Mapping[str, Path], most: int = HASHED_BYTES, largest: int | None = None) -> str:
    """Hex digest of the names, sizes and contents of ``files``; copies in another folder have the same one.

    Beyond ``most`` bytes in all, only every n-th file is read: an edit that keeps a file's size may go unseen.

    Args:
        largest: bytes that one file may have.

    Raises:
        UserError: a file cannot be read, or is larger.
    """
    paths = list(files.values())
    try:
        sizes = [path.stat().st_size for path in paths]
        if largest is not None and max(sizes, default=0) > largest:
            biggest = sizes.index(max(sizes))
            raise too_large(paths[biggest], "one file of the data", sizes[biggest], largest)
        contents = [file_hash(path) for path in paths[:: max(1, math.ceil(sum(sizes) / most))]]
    except OSError as error:
        raise UserError(
            "every file must be readable", f"{error.filename}: {error.strerror}", "repair or remove it"
        ) from error
    return content_hash(list(files), sizes, contents)


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
