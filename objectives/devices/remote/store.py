"""Files on a device, by content hash, in one folder of bounded size: the longest unused go first.

Files arrive beside the others, several at a time and as slowly as their senders are; only one that has come whole, and
is what its name says, takes the room of others.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from sousvit.objectives.devices.protocol import RequestError, check_file_name, is_hash

_CHUNK = 1 << 20
#: Files at once: a million of one byte each would fit the bound on bytes.
MAX_FILES = 4096


class FullError(RequestError):
    """A file is larger than the store."""


class BusyError(RequestError):
    """What others do at the moment leaves no room; later it will."""


class Stream(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes, none at the end."""


def check_hash(name: object) -> str:
    """``name``, if it is a whole SHA-256 in hex.

    Raises:
        RequestError: it is not.
    """
    if not is_hash(name):
        raise RequestError("a file is named by its SHA-256")
    return str(name)


class Store:
    """Content-addressed files.

    Args:
        folder: made if it is missing; files that lie there from an earlier time are used again.
        max_bytes: of all files together; and of all that are arriving.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self._lock, self._arriving = threading.Lock(), 0

    def lacking(self, hashes: Iterable[str]) -> list[str]:
        """Those that are not here; the others count as used now."""
        return [name for name in dict.fromkeys(map(check_hash, hashes)) if not self._touch(self._folder / name)]

    def add(self, name: str, stream: Stream, length: int) -> None:
        """Take ``length`` bytes from ``stream``, if they are what ``name`` says.

        Raises:
            FullError: more than the store may hold.
            BusyError: too much is arriving at the same time.
            RequestError: other bytes, or fewer.
        """
        check_hash(name)
        if length > self._max_bytes:
            raise FullError(f"a file may have {self._max_bytes} bytes, not {length}")
        handle, temporary = tempfile.mkstemp(dir=self._folder, prefix=".part-")
        part = Path(temporary)
        try:
            with os.fdopen(handle, "wb") as out:
                found = self._copy(stream, out, length)
            if found != name:
                raise RequestError("the bytes that came are not the file that was announced")
            with self._lock:
                self._make_room(length)
                part.replace(self._folder / name)
        finally:
            part.unlink(missing_ok=True)

    def _copy(self, stream: Stream, out: BinaryIO, length: int) -> str:
        """Copy ``length`` bytes; their SHA-256.

        Raises:
            BusyError: they have no room beside what else is arriving.
            RequestError: the stream ended before.
        """
        digest, left = hashlib.sha256(), length
        try:
            while left:
                chunk = stream.read(min(left, _CHUNK))
                if not chunk:
                    raise RequestError(f"{left} bytes are missing at the end")
                left -= len(chunk)
                self._count_arriving(len(chunk))
                digest.update(chunk)
                out.write(chunk)
        finally:
            self._count_arriving(left - length)
        return digest.hexdigest()

    def _count_arriving(self, change: int) -> None:
        with self._lock:
            self._arriving += change
            if change > 0 and self._arriving > self._max_bytes:
                raise BusyError("too many files are arriving at the same time")

    def path(self, content: str) -> Path:
        """The file of this content, which counts as used now.

        Raises:
            RequestError: it is not here.
        """
        path = self._folder / check_hash(content)
        if not self._touch(path):
            raise RequestError(f"the file {content[:12]} is not here")
        return path

    @contextmanager
    def laid_out(self, files: Mapping[str, str]) -> Iterator[Path]:
        """A folder for a while, with the files under their own names.

        Raises:
            RequestError: a file is not here, or has no plain name.
        """
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".laid-") as folder:
            for name, content in files.items():
                _lay(self.path(content), Path(folder) / check_file_name(name))
            yield Path(folder)

    def _touch(self, path: Path) -> bool:
        try:
            os.utime(path)  # unlike touch, it makes no empty file in the place of one that has just gone
        except OSError:
            return False
        return True

    def _make_room(self, length: int) -> None:
        held = sorted(
            (path for path in self._folder.iterdir() if is_hash(path.name)),
            key=lambda path: path.stat().st_mtime_ns,
        )
        total = sum(path.stat().st_size for path in held)
        while held and (total + length > self._max_bytes or len(held) >= MAX_FILES):
            oldest = held.pop(0)
            total -= oldest.stat().st_size
            with contextlib.suppress(OSError):
                oldest.unlink()


def _lay(source: Path, place: Path) -> None:
    """Put a file at a second place, without a copy where the file system can.

    Raises:
        RequestError: it has just made room for another one.
    """
    try:
        try:
            os.link(source, place)
        except OSError:
            shutil.copyfile(source, place)
    except FileNotFoundError as error:
        raise RequestError(f"the file {source.name[:12]} is not here") from error
