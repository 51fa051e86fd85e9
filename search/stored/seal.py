"""The seal of a YAML file that a search writes: a comment with a checksum, which shows that somebody changed it."""

from __future__ import annotations

import re
import zlib

_SEAL = re.compile(r"^# Checksum of what follows: ([0-9a-f]{8})\n", re.MULTILINE)


def sealed(text: str) -> str:
    """``text`` behind a comment with its checksum."""
    return f"# Checksum of what follows: {_checksum(text)}\n{text}"


def is_changed(text: str) -> bool:
    """Whether what stands behind a seal is something else than was sealed; False of a text without a seal."""
    found = _SEAL.search(text)
    return found is not None and found[1] != _checksum(text[found.end() :])


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode('utf-8', 'surrogatepass')):08x}"
