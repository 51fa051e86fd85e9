"""Paths of a run that was moved or copied: what it names is looked for where it lies now.

A run notes where it was. Of the two places, what is alike at the end is left out: ``/home/ann/vit/runs/a`` that is now
``/mnt/vit-2/runs/a`` was moved with all of ``/home/ann/vit``. So ``/home/ann/vit/data`` is ``/mnt/vit-2/data``,
where nothing is at the former place and something at the latter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from sousvit.search.stored.lines import Lines
from sousvit.text.paths import exists

_LOG = "events.jsonl"
_GLOB = re.compile(r"[*?\[{]")
#: Parts of a run's values that name files.
_PARTS = ("model", "data", "targets", "target", "space", "plugins")


def relocated(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The values of a budget or recipe in a run's ``folder``, with the paths that moved along with it."""
    before = former_folder(folder)
    if before is None:
        return dict(values)
    old, new = roots(before, folder.resolve())
    return {name: _mapped(part, old, new) if name in _PARTS else part for name, part in values.items()}


def former_folder(folder: Path) -> PurePath | None:
    """Where a run was when it began; None where it is there still, or does not say."""
    path = folder / _LOG
    if not path.is_file():
        return None
    event: Mapping[str, Any] = next((event for event in Lines(path) if event.get("event") == "run"), {})
    noted = event.get("folder")
    if type(noted) is not str or not PurePath(noted).is_absolute() or PurePath(noted) == folder.resolve():
        return None
    return PurePath(noted)


def roots(before: PurePath, now: PurePath) -> tuple[PurePath, PurePath]:
    """Two paths without what is alike at their ends."""
    old, new = list(before.parts), list(now.parts)
    while len(old) > 1 and len(new) > 1 and old[-1] == new[-1]:
        old.pop()
        new.pop()
    return PurePath(*old), PurePath(*new)


def _mapped(value: Any, old: PurePath, new: PurePath) -> Any:
    if isinstance(value, Mapping):
        return {key: _mapped(entry, old, new) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(entry, old, new) for entry in value]
    if not isinstance(value, str) or not PurePath(value).is_absolute() or _is_there(value):
        return value
    if not PurePath(value).is_relative_to(old):
        return value
    there = str(new / PurePath(value).relative_to(old))
    return there if _is_there(there) else value


def _is_there(place: str) -> bool:
    """Whether a path, the files of a glob, or the file of a plug-in (``/a/b.py:Class``) may be there."""
    glob = _GLOB.search(place)
    if glob is not None:
        place = place[: glob.start()].rpartition("/")[0]
    file = place.rpartition(":")[0]
    return exists(Path(place)) or (file.endswith(".py") and exists(Path(file)))
