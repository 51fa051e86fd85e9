"""Helpers for files: atomic writes, content hashes, canonical JSON, and disk errors as user errors."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sousvit.errors import SharedInputError, UserError
from sousvit.reading import open_file, too_large

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Files of a data set are read whole for its digest up to so many bytes (a second from a warm disk).
HASHED_BYTES = 256 << 20

#: What file systems without locks (some network mounts) answer to one who asks for a lock.
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)

_DISK_ERRORS = {
    errno.ENOSPC: ("the disk must have free space", "free some space and run the same command again to resume"),
    errno.EDQUOT: ("the disk quota must leave free space", "free some space and run the same command again to resume"),
    errno.EACCES: ("the folder must be writable", "choose another folder or change its permissions"),
    errno.EPERM: ("the folder must be writable", "choose another folder or change its permissions"),
    errno.EROFS: ("the file system must be writable", "choose another folder"),
    errno.ENOTDIR: ("the path must be a folder", "choose another path"),
    errno.EEXIST: ("the path must be a folder", "choose another path"),
    errno.EISDIR: ("the path must be a file", "choose another path"),
    errno.ENAMETOOLONG: ("the path must not be too long", "choose a shorter path"),
}


@contextmanager
def disk_errors_as_user_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, a read-only or forbidden folder into a :class:`SharedInputError` naming ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        rule, action = _DISK_ERRORS[error.errno]
        raise SharedInputError(rule, f"{path} ({error.strerror})", action) from error


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write ``content`` so that a reader (or a crash) never sees half a file.

    Raises:
        SharedInputError: the disk is full or the folder not writable; an older file stays as it was.
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
