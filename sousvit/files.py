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

from sousvit.errors import UserError
from sousvit.faults import path_fault

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Files of a data set are read whole for its digest up to so many bytes (a second from a warm disk).
HASHED_BYTES = 256 << 20

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
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:length]


def files_hash(files: Mapping[str, Path], most: int = HASHED_BYTES) -> str:
    """Hex digest of the names, sizes and contents of ``files``; copies in another folder have the same one.

    Beyond ``most`` bytes in all, only every n-th file is read: an edit that keeps a file's size may go unseen.

    Raises:
        UserError: a file cannot be read.
    """
    paths = list(files.values())
    try:
        sizes = [path.stat().st_size for path in paths]
        contents = [file_hash(path) for path in paths[:: max(1, math.ceil(sum(sizes) / most))]]
    except OSError as error:
        raise UserError(
            "every file must be readable", f"{error.filename}: {error.strerror}", "repair or remove it"
        ) from error
    return content_hash(list(files), sizes, contents)
