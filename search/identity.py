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

from sousvit.data.layout import ANNOTATIONS, IMAGES, expand, is_system_file, is_system_folder, labels_of
from sousvit.errors import UserError
from sousvit.files import files_hash, write_atomic
from sousvit.models.checkpoints.hub import PREFIXES, cached_folder
from sousvit.search.budget import Budget
from sousvit.search.stored.seal import is_changed
from sousvit.spaces.sources import checkpoints
from sousvit.specs import NO_DATA, DataSpec, ModelSpec, paths_of

#: In the run folder: what each input was.
INPUTS_FILE = "inputs.json"
_NOTED = ("places", "files", "bytes", "times", "content")


def note_inputs(budget: Budget, folder: Path) -> None:
    """Note the inputs' contents in the run's folder, once; again where what was noted is damaged.

    Raises:
        UserError: one cannot be read.
    """
    path = folder / INPUTS_FILE
    if _known(folder) is None:
        known = {}
        for role, places in _inputs(budget):
            files = _files(places)
            known[role] = {"places": list(map(str, places)), **_glance(files), "content": files_hash(files)}
        write_atomic(path, json.dumps(known, indent=1))


def noted_inputs(folder: Path) -> dict[str, str]:
    """Content hashes of what a run depends on outside of its folder, by what it is (``data.test``)."""
    return {role: str(entry["content"]) for role, entry in (_known(folder) or {}).items()}


def input_contents(model: ModelSpec, data: DataSpec) -> dict[str, str]:
    """Content hashes of a model and data that lie on this machine, by what they are, as a run notes them."""
    found = {}
    for role, places in [*_of_model(model), *_of_data(data)]:
        found[role] = files_hash(_files(places))
    return found


def changed_inputs(budget: Budget, folder: Path) -> list[str]:
    """The inputs whose content is another than when the run measured its base, such as ``data.test: PATH``.

    Files are read only where their number, sizes or times differ.
    """
    known = _known(folder) or {}
    found = ((role, places) for role, places in _inputs(budget) if role in known)
    return [f"{role}: {places[0]}" for role, places in found if _differs(places, known[role])]


def changed_beside(recipe: object) -> list[str]:
    """What changed since the run measured it: a recipe file, and what it was made from if it lies in the run's folder.

    The run's budget is not read: it may name code, and a recipe file is data.
    """
    if not isinstance(recipe, str | Path):
        return []
    known = _known(Path(recipe).parent) or {}
    found = {role: [place for place in map(Path, entry["places"]) if place.exists()] for role, entry in known.items()}
    changed = [f"{role}: {places[0]}" for role, places in found.items() if places and _differs(places, known[role])]
    is_edited = Path(recipe).is_file() and is_changed(Path(recipe).read_text(encoding="utf-8", errors="replace"))
    return [f"the recipe itself: {recipe}"] * is_edited + changed


def damaged_inputs(folder: Path) -> list[str]:
    """Whether what was noted of the inputs is damaged: then nobody knows whether they changed."""
    is_damaged = (folder / INPUTS_FILE).exists() and _known(folder) is None
    return [f"{INPUTS_FILE}: unreadable, so nothing says whether model, data and plug-ins changed"] * is_damaged


def _known(folder: Path) -> dict[str, dict[str, Any]] | None:
    """What the inputs were; None where it was not noted, or cannot be read."""
    try:
        found = json.loads((folder / INPUTS_FILE).read_text(encoding="utf-8"))
        is_whole = all(set(_NOTED) <= entry.keys() and isinstance(entry["places"], list) for entry in found.values())
        are_texts = is_whole and all(type(place) is str for entry in found.values() for place in entry["places"])
        return found if are_texts and all(entry["places"] for entry in found.values()) else None
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return None


def told_of_damage(damaged: list[str]) -> tuple[str, ...]:
    """A note on what is damaged of a run, if anything is."""
    return (f"damaged: {'; '.join(damaged)}; this is of what is whole",) if damaged else ()


def told_of_changes(changed: list[str]) -> tuple[str, ...]:
    """A note on what changed, if anything did."""
    if not changed:
        return ()
    return (f"changed since the run measured it: {', '.join(changed)}; the run's figures are of what was there",)


def require_same_inputs(budget: Budget, folder: Path) -> None:
    """Refuse to go on with other inputs.

    Raises:
        UserError: one changed.
    """
    changed = changed_inputs(budget, folder)
    if changed:
        rule = "a run keeps the model, data and plug-ins it began with"
        raise UserError(rule, f"other content of {', '.join(changed)}", "use another --run name")


def _inputs(budget: Budget) -> Iterator[tuple[str, list[Path]]]:
    """Every input that lies on this machine: the key that names it, and where it is."""
    yield from _of_model(budget.model)
    for key, sources in checkpoints(budget.space).items():
        yield from _there(key, [place for source in sources for place in _of_checkpoint(source)])
    yield from _of_data(budget.data)
    for kind, references in budget.plugins.items():
        for number, reference in enumerate(references):
            yield from _there(f"plugins.{kind} {number}", _code(reference))


def _of_model(model: ModelSpec) -> Iterator[tuple[str, list[Path]]]:
    if model.checkpoint is not None:
        yield from _there("model.checkpoint", _of_checkpoint(model.checkpoint))


def _of_data(data: DataSpec) -> Iterator[tuple[str, list[Path]]]:
    for part in ("train", "test", "validation"):
        yield from _there(
            f"data.{part}", [near for path in _paths(getattr(data, part)) for near in _beside(path, data)]
        )
    yield from _there("data.root", [Path(data.root)] if data.root and data.train is None else [])
    yield from _there("data.images", [Path(entry) for entry in data.images or ()])


def _there(role: str, places: list[Path]) -> Iterator[tuple[str, list[Path]]]:
    found = [place for place in places if place.exists()]
    if found:
        yield role, found


def _of_checkpoint(source: str) -> list[Path]:
    """A checkpoint and what describes it: a file may have its description beside it."""
    if source.startswith(PREFIXES):
        cached = cached_folder(source)
        return [] if cached is None else [cached]
    path = Path(source)
    if path.is_dir():
        return [path]
    return [path, path.with_suffix(".json"), path.with_name("config.json"), path.with_name("preprocessor_config.json")]


def _paths(given: object) -> list[Path]:
    """The paths of a part of the data, globs spelt out; none of those that lie on another machine."""
    found: list[Path] = []
    for entry in paths_of(given):
        try:
            found += expand(entry) if entry != NO_DATA else []
        except UserError:
            continue
    return found


def _beside(path: Path, data: DataSpec) -> list[Path]:
    """A path of the data and the files that belong to it: labels of IDX, annotations and images of boxes."""
    if data.format == "idx":
        return [path, labels_of(path)]
    if data.format == "voc":
        top = next((folder for folder in (path, *path.parents) if (folder / ANNOTATIONS).is_dir()), path)
        return list(dict.fromkeys([path, top / ANNOTATIONS, top / IMAGES]))
    if data.format == "coco" and not data.images:
        return [path, path.parent]
    return [path]


def _code(reference: str) -> list[Path]:
    """The file of a plug-in, ``file.py:Class`` or ``package.module:Class``; loading a budget has imported it."""
    place, _, _ = reference.rpartition(":")
    if place.endswith(".py"):
        return [Path(place)]
    file = getattr(sys.modules.get(place), "__file__", None)
    return [] if file is None else [Path(file)]


def _differs(places: list[Path], known: dict[str, Any]) -> bool:
    files = _files(places)
    seen = _glance(files)
    return any(seen[key] != known[key] for key in seen) and files_hash(files) != known["content"]


def _files(places: list[Path]) -> dict[str, Path]:
    """Files by a name that does not change when all of it is moved; links are followed, each folder once.

    What systems leave in folders by themselves is passed over: a view of a folder must not end its runs.
    """
    found: dict[str, Path] = {}
    for number, place in enumerate(places):
        if place.is_file():
            found[f"{number}/{place.name}"] = place
            continue
        seen: set[str] = set()
        for folder, folders, names in os.walk(place, followlinks=True):
            folders[:] = [name for name in folders if not is_system_folder(name)]
            real = os.path.realpath(folder)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            files = (Path(folder) / name for name in names if not is_system_file(name))
            found |= {f"{number}/{file.relative_to(place).as_posix()}": file for file in files if file.is_file()}
    return dict(sorted(found.items()))


def _glance(files: dict[str, Path]) -> dict[str, int]:
    """What a look at the folders tells, without opening a file."""
    states = [path.stat() for path in files.values()]
    times = sum(state.st_mtime_ns for state in states)
    return {"files": len(states), "bytes": sum(state.st_size for state in states), "times": times}
