"""Content hashes of an artifact's files: what travels to a device, and what it must have used."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from sousvit.files import file_hash

if TYPE_CHECKING:
    from sousvit.spaces.export.artifact import Artifact

#: Hex digits of a whole SHA-256: over a network a shortened one would invite collisions.
DIGITS = 64
#: Bytes a second at which a file travels, on the whole; whoever is slower is not waited for.
MIN_RATE = 16_384


def file_hashes(artifact: Artifact) -> dict[str, str]:
    """SHA-256 of every file that must be shipped, by file name."""
    return {path.name: _hash(path, (stat := path.stat()).st_mtime_ns, stat.st_size) for path in artifact.shipped_files}


@lru_cache(maxsize=256)
def _hash(path: Path, modified: int, size: int) -> str:
    return file_hash(path, DIGITS)
