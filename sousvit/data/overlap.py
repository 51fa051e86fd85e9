"""Images that are in two parts of the data, or several times in one: found by their content, without decoding.

Two images are the same where their bytes are (or their pixels, in formats that hold pixels as they are). Of every image
only the size and the last :data:`TAIL` bytes are read; images that agree in both are then compared in full. So nothing
that is different is called the same, every byte-for-byte copy is found, and of 1.3 million files a few kilobytes each
are read once: the result is kept in the run's cache.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import torch

from sousvit.cache import TensorCache
from sousvit.data.layout import readable
from sousvit.data.numbering import content_of
from sousvit.data.source import MOST_ENCODED, Source
from sousvit.errors import UserError
from sousvit.files import content_hash, open_file, read_bytes

#: Bytes at the end of an image that are compared first: where compressed data differs if it differs anywhere.
TAIL = 4096
#: Sources with at least so many images keep what was read of them.
WORTH_KEEPING = 20_000
#: A share of a part, above which shared images are an error. Well-known data sets share a few images between their
#: parts, and their figures are compared all the same; those are told in a note.
TOLERATED = 0.002
_VERSION = 1

#: What this process has read of its sources.
_READ: WeakKeyDictionary[Source, np.ndarray] = WeakKeyDictionary()


def content_ids(sources: Sequence[Source], cache: TensorCache | None = None) -> list[np.ndarray]:
    """An integer for each image of each source, int64 ``[N]``; equal ones are the same image.

    Raises:
        SharedInputError: a file cannot be read.
    """
    ids = [_endings(source, cache) for source in sources]
    _, places, counts = np.unique(np.concatenate(ids), return_inverse=True, return_counts=True)
    alike = (counts > 1)[places]
    start = 0
    for number, source in enumerate(sources):
        count = len(ids[number])
        rows = np.flatnonzero(alike[start : start + count])
        start += count
        ids[number][rows] = _each(lambda row, source=source: _whole(source, row), rows)  # type: ignore[misc]
    return ids


def _endings(source: Source, cache: TensorCache | None) -> np.ndarray:
    """A digest of the size and the last bytes of each image, kept in ``cache`` where that saves time."""
    if source in _READ:
        return _READ[source].copy()
    count = len(source.labels)
    key = "contents/" + content_hash(source.fingerprint, count, _VERSION)
    known = cache.read(key) if cache is not None and count >= WORTH_KEEPING else None
    if known is not None:
        ids = known[0]["ids"].numpy()
    else:
        ids = _each(lambda row: _ending(source, row), range(count))
        if cache is not None and count >= WORTH_KEEPING:
            cache.write(key, {"ids": torch.from_numpy(ids.copy())})
    _READ[source] = ids
    return ids.copy()


def _each(digest: Callable[[int], int], rows: Iterable[int]) -> np.ndarray:
    """The digests of ``rows``; files are read by several threads, because disks and networks answer late."""
    rows = [int(row) for row in rows]
    if not rows:
        return np.zeros(0, np.int64)
    with ThreadPoolExecutor(8) as pool:
        chunks = [rows[start : start + 512] for start in range(0, len(rows), 512)]
        found = pool.map(lambda chunk: [digest(row) for row in chunk], chunks)
        return np.array([one for chunk in found for one in chunk], np.int64)


def _ending(source: Source, row: int) -> int:
    content = content_of(source, row)
    if not isinstance(content, Path):
        return _digest(len(content), content[-TAIL:])
    with readable(content), open_file(content) as stream:
        size = os.fstat(stream.fileno()).st_size
        return _digest(size, os.pread(stream.fileno(), TAIL, max(0, size - TAIL)))


def _whole(source: Source, row: int) -> int:
    content = content_of(source, row)
    if isinstance(content, Path):
        content = read_bytes(content, "an image", MOST_ENCODED)
    return _digest(len(content), content)


def _digest(size: int, data: bytes) -> int:
    digest = hashlib.blake2b(data, digest_size=8, salt=size.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little", signed=True)


def require_apart(part: Source, other: Source, part_ids: np.ndarray, other_ids: np.ndarray) -> list[str]:
    """Check that two parts share no image; a note where they share too few to matter.

    Args:
        part: the one that is judged on.

    Raises:
        UserError: they share more than :data:`TOLERATED` of it.
    """
    shared = np.flatnonzero(np.isin(part_ids, other_ids))
    if not len(shared):
        return []
    first = int(shared[0])
    there = int(np.flatnonzero(other_ids == part_ids[first])[0])
    example = f"{_called(part, first)} is {_called(other, there)}"
    where = f"{len(shared)} of the {len(part_ids)} images of {part.name} also in {other.name}"
    if len(shared) > TOLERATED * len(part_ids):
        raise UserError("the parts of the data share no image", f"{where}: {example}", "take them out of one part")
    return [f"{where} ({example}): too few to matter"]


def require_last_apart(source: Source, ids: np.ndarray, count: int) -> list[str]:
    """Check that the last ``count`` images have no copies among the others; a note where too few have to matter.

    Raises:
        UserError: more than :data:`TOLERATED` of them have.
    """
    shared = np.flatnonzero(np.isin(ids[-count:], ids[:-count])) + len(ids) - count
    if not len(shared):
        return []
    where = f"{len(shared)} of the last {count} images of {source.name} also before them ({_called(source, shared[0])})"
    if len(shared) > TOLERATED * count:
        action = "write validation: as a share or count, which keeps copies on one side"
        raise UserError("the parts of the data share no image", where, action)
    return [f"{where}: too few to matter"]


def _called(source: Source, row: int) -> str:
    content = content_of(source, row)
    return "/".join(content.parts[-2:]) if isinstance(content, Path) else f"row {row}"


def copies(source: Source, ids: np.ndarray) -> list[str]:
    """A note that counts the images that are there several times, and those among them that have two labels."""
    _, first, groups, counts = np.unique(ids, return_index=True, return_inverse=True, return_counts=True)
    extra = len(ids) - len(counts)
    if not extra:
        return []
    notes = [f"{extra} of the {len(ids)} images of {source.name} are copies of others in it"]
    torn = np.unique(groups[source.labels != source.labels[first][groups]])
    if len(torn):
        row = int(first[torn[0]])
        notes.append(
            f"{int(counts[torn].sum())} images of {source.name} are copies of each other with different labels, "
            f"{_called(source, row)} among them"
        )
    return notes


def keep_copies_together(count: int, order: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Rows to hold out such that no image is on both sides, and notes.

    The first ``count`` rows of ``order``; those that have a copy among the others go back to these, and the next images
    in ``order``, each with its copies, take their places.

    Args:
        order: all rows, in the order in which they are drawn.
        ids: the content of each row.
    """
    held_out, rest = order[:count], order[count:]
    torn = np.isin(ids[held_out], ids[rest])
    if not torn.any():
        return held_out, []
    by_content = np.argsort(ids, kind="stable")
    sorted_ids = ids[by_content]
    taken = [int(row) for row in held_out[~torn]]
    seen = set(ids[held_out[~torn]].tolist())
    for row in (*rest, *held_out[torn]):
        if len(taken) == count:
            break
        if (content := int(ids[row])) in seen:
            continue
        seen.add(content)
        first, last = np.searchsorted(sorted_ids, content, "left"), np.searchsorted(sorted_ids, content, "right")
        if last - first <= count - len(taken):
            taken += [int(one) for one in by_content[first:last]]
    number = int(torn.sum())
    if 2 * len(taken) < count:
        return held_out, [
            f"{number} of the {count} images held out for validation have copies among the training images: too few "
            "others are there to judge on"
        ]
    return np.array(taken), [
        f"{number} of the {count} images drawn for validation have copies among the training images: others were "
        "taken for them, so that copies are on one side"
    ]
