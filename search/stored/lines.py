"""Numbered, checksummed lines: a log of JSON objects that shows what was damaged of it.

A line ends in ``"line":17,"crc":"1a2b3c4d"}``: its number in the file, from 1, and the CRC-32 of all before the
checksum. So a line that was cut, changed, lost, doubled or moved is known. Lines of earlier versions have neither.
"""

from __future__ import annotations

import contextlib
import gc
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

NUMBER, CHECKSUM = "line", "crc"
_MARK = b',"crc":"'
#: Characters of the checksum and of the quotation mark and brace behind it.
_DIGITS, _END = 8, 2
_TAIL = len(_MARK) + _DIGITS + _END

#: What may be wrong with lines.
UNREADABLE, MISSING, TWICE, MOVED, TORN = "unreadable", "missing", "there twice", "out of place", "cut short at the end"


def sealed_line(content: Mapping[str, Any], number: int) -> bytes:
    """An object as line ``number`` of a log."""
    body = json.dumps({**content, NUMBER: number}, separators=(",", ":"), default=str).encode()[:-1]
    return b'%b%b%08x"}\n' % (body, _MARK, zlib.crc32(body))


def are_whole(path: Path) -> bool:
    """Whether every line of a log is as it was written, in its place; of one of an earlier version it is not known."""
    with path.open("rb") as stream:
        return all(_is_line(line, place) for place, line in enumerate(stream, 1))


def _is_line(line: bytes, number: int) -> bool:
    """Whether it is line ``number``, by what :func:`sealed_line` puts at its end."""
    start = len(line) - _TAIL - 1
    seal = b'%b%08x"}\n' % (_MARK, zlib.crc32(line[:start]))
    return line[start:] == seal and line[:start].endswith(b',"%b":%d' % (NUMBER.encode(), number))


class Lines:
    """The objects of a log in their order; what was damaged is known once all were asked for.

    What cannot be read is left out, and so is a line that is there twice.

    Args:
        begins: look at lines alone that begin with one of these; then nobody knows what is damaged.

    Attributes:
        last: the highest number so far; lines of earlier versions are counted.
        damage: how many lines of each kind of damage.
        whole_bytes: where the file ends but for a last line that was cut short.
    """

    def __init__(self, path: Path, begins: tuple[bytes, ...] = ()) -> None:
        self._path, self._begins = path, begins
        self._seen: dict[int, bytes] = {}
        self.last = self.whole_bytes = 0
        self.damage: Counter[str] = Counter()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if not self._path.is_file():
            return
        with self._path.open("rb") as stream, collection_paused():
            for line in stream:
                if self._begins and not line.startswith(self._begins):
                    continue
                content = self._take(line)
                if content is not None:
                    yield content
        lost = self.last - len(self._seen) - self.damage[UNREADABLE]  # an unreadable line left its number out
        if lost > 0:
            self.damage[MISSING] = lost

    def _take(self, line: bytes) -> dict[str, Any] | None:
        found = _read(line.rstrip())
        if found is None and not line.endswith(b"\n"):
            self.damage[TORN] += 1
            return None
        self.whole_bytes += len(line)
        if found is None:
            self.damage[UNREADABLE] += 1
            return None
        content, number, checksum = found
        number = number or self.last + 1
        if number in self._seen and self._seen[number] == checksum:
            self.damage[TWICE] += 1
            return None
        if number <= self.last:
            self.damage[MOVED] += 1
        self._seen[number] = checksum
        self.last = max(self.last, number)
        return content


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Without the search for unused cycles: a log makes a million objects that stay, and none of them is one."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _read(line: bytes) -> tuple[dict[str, Any], int, bytes] | None:
    """Content, number (0 of an earlier version) and checksum of a line; None where it is damaged."""
    start, end = len(line) - _TAIL, len(line) - _END
    checksum = line[end - _DIGITS : end] if line[start : start + len(_MARK)] == _MARK else b""
    if checksum and checksum != b"%08x" % zlib.crc32(line[:start]):
        return None
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    number = content.pop(NUMBER, 0)
    is_sealed = content.pop(CHECKSUM, None) is not None
    if is_sealed != bool(checksum) or type(number) is not int or (number > 0) != is_sealed:
        return None
    return content, number, checksum
