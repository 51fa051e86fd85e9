"""Files on a device, by content hash, in one folder of bounded size: the longest unused go first."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from sousvit.objectives.devices.protocol import RequestError, check_file_name
from sousvit.objectives.devices.remote.files import DIGITS

_HASH = re.compile(rf"[0-9a-f]{{{DIGITS}}}")
_CHUNK = 1 << 20


class FullError(RequestError):
    """A file is larger than the store."""


def check_hash(name: object) -> str:
    """``name``, if it is a whole SHA-256 in hex.

    Raises:
        RequestError: it is not.
    """
    if not isinstance(name, str) or not _HASH.fullmatch(name):
        raise RequestError("a file is named by its SHA-256")
    return name


class Store:
    """Content-addressed files.

    Args:
        folder: made if it is missing; files that lie there from an earlier time are used again.
        max_bytes: of all files together.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()

    def lacking(self, hashes: Iterable[str]) -> list[str]:
        """Those that are not here; the others count as used now."""
        return [name for name in dict.fromkeys(hashes) if not self._touch(self._folder / check_hash(name))]

    def add(self, name: str, stream: BinaryIO, length: int) -> None:
        """Take ``length`` bytes from ``stream``, if they are what ``name`` says.

        Raises:
            FullError: more than the store may hold.
            RequestError: other bytes, or fewer.
        """
        check_hash(name)
        if length > self._max_bytes:
            raise FullError(f"a file may have {self._max_bytes} bytes, not {length}")
        with self._lock:  # one upload at a time: each counts on the room that it makes
            self._make_room(length)
            handle, temporary = tempfile.mkstemp(dir=self._folder, prefix=".part-")
            try:
                with os.fdopen(handle, "wb") as out:
                    found = _copy(stream, out, length)
                if found != name:
                    raise RequestError("the bytes that came are not the file that was announced")
                Path(temporary).replace(self._folder / name)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise

    @contextmanager
    def laid_out(self, files: Mapping[str, str]) -> Iterator[Path]:
        """A folder for a while, with the files under their own names.

        Raises:
            RequestError: a file is not here, or has no plain name.
        """
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".laid-") as folder:
            for name, content in files.items():
                source = self._folder / check_hash(content)
                if not self._touch(source):
                    raise RequestError(f"the file {content[:12]} is not here")
                place = Path(folder) / check_file_name(name)
                try:
                    os.link(source, place)
                except OSError:
                    shutil.copyfile(source, place)
            yield Path(folder)

    def _touch(self, path: Path) -> bool:
        try:
            path.touch(exist_ok=True) if path.is_file() else None
        except OSError:
            return False
        return path.is_file()

    def _make_room(self, length: int) -> None:
        held = sorted(
            (path for path in self._folder.iterdir() if _HASH.fullmatch(path.name)),
            key=lambda path: path.stat().st_mtime_ns,
        )
        total = sum(path.stat().st_size for path in held)
        while held and total + length > self._max_bytes:
            oldest = held.pop(0)
            total -= oldest.stat().st_size
            with contextlib.suppress(OSError):
                oldest.unlink()


def _copy(stream: BinaryIO, out: BinaryIO, length: int) -> str:
    """Copy ``length`` bytes; their SHA-256.

    Raises:
        RequestError: the stream ended before.
    """
    digest, left = hashlib.sha256(), length
    while left:
        chunk = stream.read(min(left, _CHUNK))
        if not chunk:
            raise RequestError(f"{left} bytes are missing at the end")
        digest.update(chunk)
        out.write(chunk)
        left -= len(chunk)
    return digest.hexdigest()
