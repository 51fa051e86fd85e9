"""What a run's answers depend on outside of its folder: weights, images, labels and the code of plug-ins, by content.

Noted when the base is measured, and compared whenever the run is opened again. What was only touched, copied or moved
is the same; what is not there cannot be compared, and a run that was taken to another machine opens all the same.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sousvit.data.layout import expand
from sousvit.errors import UserError
from sousvit.files import files_hash, write_atomic
from sousvit.search.budget import Budget
from sousvit.specs import NO_DATA, paths_of

#: In the run folder: what each input was.
INPUTS_FILE = "inputs.json"


def note_inputs(budget: Budget, folder: Path) -> None:
    """Note the inputs' contents in the run's folder, once.

    Raises:
        UserError: one cannot be read.
    """
    path = folder / INPUTS_FILE
    if not path.exists():
        known = {role: {**_glance(where), "content": _content(where)} for role, where in _inputs(budget)}
        write_atomic(path, json.dumps(known, indent=1))


def changed_inputs(budget: Budget, folder: Path) -> list[str]:
    """The inputs whose content is another than when the run measured its base, such as ``data.test: PATH``.

    A file's content is read only where its size or time differ.
    """
    path = folder / INPUTS_FILE
    known: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else {}
    return [f"{role}: {where}" for role, where in _inputs(budget) if role in known and _differs(where, known[role])]


def require_same_inputs(budget: Budget, folder: Path) -> None:
    """Refuse to go on with other inputs.

    Raises:
        UserError: one changed.
    """
    changed = changed_inputs(budget, folder)
    if changed:
        rule = "a run keeps the model, data and plug-ins it began with"
        raise UserError(rule, f"other content of {', '.join(changed)}", "use another --run name")


def _inputs(budget: Budget) -> Iterator[tuple[str, Path]]:
    """Every input that lies on this machine, by the key that names it."""
    data = budget.data
    given: dict[str, object] = {"model.checkpoint": budget.model.checkpoint, "data.root": data.root}
    for part in ("train", "test", "validation"):
        given |= _part(f"data.{part}", getattr(data, part))
    given |= {f"data.images {number}": entry for number, entry in enumerate(data.images or ())}
    for kind, references in budget.plugins.items():
        given |= {f"plugins.{kind} {number}": entry for number, entry in enumerate(references)}
    for role, entry in given.items():
        if not isinstance(entry, str) or entry == NO_DATA:
            continue
        path = _code(entry) if role.startswith("plugins") else Path(entry)
        if path is not None and path.exists():
            yield role, path


def _part(role: str, given: object) -> dict[str, str]:
    """The paths of a part of the data, globs spelt out; a single one has the part's own name."""
    paths = [str(path) for entry in paths_of(given) if entry != NO_DATA for path in _there(entry)]
    return {role: paths[0]} if len(paths) == 1 else {f"{role} {number}": path for number, path in enumerate(paths)}


def _there(given: str) -> list[Path]:
    try:
        return expand(given)
    except UserError:  # it lies on another machine
        return []


def _code(reference: str) -> Path | None:
    """The file of a plug-in, ``file.py:Class`` or ``package.module:Class``; loading a budget has imported it."""
    place, _, _ = reference.rpartition(":")
    if place.endswith(".py"):
        return Path(place)
    file = getattr(sys.modules.get(place), "__file__", None)
    return None if file is None else Path(file)


def _differs(where: Path, known: dict[str, Any]) -> bool:
    seen = _glance(where)
    return any(seen[key] != known[key] for key in seen) and _content(where) != known["content"]


def _files(where: Path) -> dict[str, Path]:
    """Files by name below a folder, or the file itself."""
    if where.is_file():
        return {where.name: where}
    found = (Path(folder) / name for folder, _, names in os.walk(where) for name in names)
    return {path.relative_to(where).as_posix(): path for path in sorted(found) if path.is_file()}


def _glance(where: Path) -> dict[str, int]:
    """What a look at the folder tells, without opening a file."""
    states = [path.stat() for path in _files(where).values()]
    times = sum(state.st_mtime_ns for state in states)
    return {"files": len(states), "bytes": sum(state.st_size for state in states), "times": times}


def _content(where: Path) -> str:
    return files_hash(_files(where))
