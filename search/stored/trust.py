"""Code that a run names: only what the user named on this machine, and did not change since, is loaded with the run.

A run folder can come from anywhere, and with it whatever it says of itself. So what the user named for a search of
their own is noted outside of every run: plug-ins and the factories of models, each with a hash of the files that it is
imported from, in ``$XDG_STATE_HOME/sousvit/code.json`` (by default below ``~/.local/state``).
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sousvit.errors import UserError
from sousvit.files import content_hash, file_hash, write_atomic
from sousvit.registry import file_of
from sousvit.search.plugins import loaded_references, references_of
from sousvit.specs import MEMORY

if TYPE_CHECKING:
    from sousvit.search.budget import Budget
    from sousvit.specs import ModelSpec

#: References that are remembered at most; the oldest are forgotten first.
MOST = 1000
#: References that a message shows at most.
SHOWN = 3


def note_code(budget: Budget) -> None:
    """Note the code that a budget of the user's own names; where that cannot be written, it is asked for later."""
    named = {reference: _content(reference) for reference in chain.from_iterable(budget.plugins.values())}
    if _has_factory(budget.model):
        named[_factory(budget.model)] = _content(str(budget.model.factory))
    found = {name: content for name, content in named.items() if content}
    known = _noted()
    path = _state()
    if path is not None and found and not found.items() <= known.items():
        kept = list({**known, **found}.items())[-MOST:]
        with contextlib.suppress(UserError, OSError):
            write_atomic(path, json.dumps(dict(kept), indent=1))


def require_known_code(plugins: Any, folder: Path, allowed: bool) -> None:
    """Refuse plug-ins that a run names, unless the user named them before.

    Args:
        plugins: as they stand in the run's budget.
        folder: of the run, where relative paths start.
        allowed: whether the user allows all that it names.

    Raises:
        UserError: it names others, or files that were changed.
    """
    named = chain.from_iterable(references_of(plugins, folder).values())
    if not allowed:
        loaded, noted = loaded_references(), _noted()
        _refuse([one for one in named if one not in loaded and not _is_noted(noted, one, one)], folder)


def require_known_factory(model: ModelSpec, folder: Path, allowed: bool) -> None:
    """Refuse a factory that a run names, unless the user named it before with the same arguments.

    Raises:
        UserError: it is another, or its files were changed.
    """
    if _has_factory(model) and not allowed and not _is_noted(_noted(), _factory(model), str(model.factory)):
        _refuse([f"factory {model.factory}"], folder)


def _refuse(strange: list[str], folder: Path) -> None:
    if strange:
        more = f" and {len(strange) - SHOWN} more" if len(strange) > SHOWN else ""
        rule = "a run is data: code that it names is loaded where you named it yourself and did not change it since"
        action = "read that code; if you trust it, add --allow-plugins (in Python allow_plugins=True)"
        raise UserError(rule, f"{', '.join(strange[:SHOWN])}{more} in {folder}", action)


def _has_factory(model: ModelSpec) -> bool:
    return model.factory not in (None, MEMORY)


def _factory(model: ModelSpec) -> str:
    """A factory with its arguments: the same function does other things with others."""
    return f"{model.factory} {content_hash(model.args)}"


def _is_noted(noted: Mapping[str, str], name: str, reference: str) -> bool:
    content = _content(reference)
    return content is not None and noted.get(name) == content


def _content(reference: str) -> str | None:
    """A hash of the places and contents of the files that importing a reference runs; None where they are not found."""
    place = reference.rpartition(":")[0]
    try:
        file = file_of(place)
        files = [file] if file is not None else list(_files_of_module(place))
        return content_hash([(str(path), file_hash(path, length=64)) for path in files], length=64)
    except (OSError, ImportError, ValueError):
        return None


def _files_of_module(name: str) -> Iterator[Path]:
    """The files of a module and of the packages that hold it, which are not run by looking for them.

    Raises:
        ImportError: there is no such module.
    """
    places, parts = None, name.split(".")
    for end in range(1, len(parts) + 1):
        spec = _spec(".".join(parts[:end]), places)
        if spec.has_location and spec.origin is not None:
            yield Path(spec.origin).resolve()
        places = spec.submodule_search_locations


def _spec(name: str, places: Any) -> ModuleSpec:
    for finder in sys.meta_path:
        spec = finder.find_spec(name, places)
        if spec is not None:
            return spec
    raise ImportError(name)


def _noted() -> dict[str, str]:
    path = _state()
    try:
        found = {} if path is None else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _state() -> Path | None:
    """The file of the user's own state; None for a user without a home."""
    given = Path(os.environ.get("XDG_STATE_HOME", ""))
    try:
        root = given if given.is_absolute() else Path.home() / ".local" / "state"
    except RuntimeError:
        return None
    return root / "sousvit" / "code.json"
