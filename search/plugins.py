"""A user's own classes, named under ``plugins`` in a budget or on a command: which kinds there are, how they load.

Whoever reads a budget loads them, so every process that works for a search does: the driver and each worker, on this
machine or another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sousvit.checked import read_yaml
from sousvit.data.formats.format import FORMATS
from sousvit.errors import UnknownNameError, UserError
from sousvit.objectives.devices.open import DEVICES
from sousvit.objectives.objective import OBJECTIVES
from sousvit.objectives.runtimes.runtime import RUNTIMES
from sousvit.registry import Registry, absolute_reference, classes_of, load_class
from sousvit.search.proposers.proposer import PROPOSERS
from sousvit.spaces.export.exporter import EXPORTERS
from sousvit.spaces.technique import TECHNIQUES

#: Kind of plug-in -> what takes its class. A runtime's holds its exporter.
KINDS: dict[str, tuple[Registry[Any], ...]] = {
    "objectives": (OBJECTIVES,),
    "techniques": (TECHNIQUES,),
    "runtimes": (RUNTIMES, EXPORTERS),
    "devices": (DEVICES,),
    "formats": (FORMATS,),
    "proposers": (PROPOSERS,),
}


def load_plugins(given: Any, folder: Path) -> dict[str, tuple[str, ...]]:
    """Import, check and register what is named; returns the references by kind, the paths in them absolute.

    Args:
        given: for instance ``{"runtimes": ["mine.py:Mine"]}``.
        folder: where relative paths start.

    Raises:
        UserError: a kind is unknown, a reference is none, or a class is missing or breaks its contract.
    """
    found = references_of(given, folder)
    for kind, references in found.items():
        for registry in KINDS[kind]:
            for reference in references:
                registry.load(reference)
    return found


def references_of(given: Any, folder: Path) -> dict[str, tuple[str, ...]]:
    """What is named, by kind, the paths in it absolute; nothing is imported.

    Raises:
        UserError: a kind is unknown, or a reference is none.
    """
    if not isinstance(given, Mapping):
        raise UserError("plugins are lists of file.py:ClassName by kind", repr(given), "see docs/extending.md")
    found: dict[str, tuple[str, ...]] = {"objectives": ()}
    for kind, references in given.items():
        if kind not in KINDS:
            raise UnknownNameError("a kind of plug-in", kind, KINDS)
        if not isinstance(references, list | tuple) or not all(isinstance(one, str) for one in references):
            raise UserError(f"plugins: {kind} is a list of file.py:ClassName", repr(references), "write a list")
        if references:
            found[kind] = tuple(absolute_reference(one, folder) for one in references)
    return found


def loaded_references() -> frozenset[str]:
    """The references of all plug-ins that this process has loaded."""
    registries = {registry for registries in KINDS.values() for registry in registries}
    return frozenset(reference for registry in registries for reference in registry.references())


def load_named(names: Iterable[str | Path]) -> None:
    """Import, check and register what a command names, which need not say the kind.

    Args:
        names: a Python file, of which every class of a kind is taken; one class, as ``file.py:ClassName`` or
            ``package.module:ClassName``; or a budget, of which what stands under ``plugins`` is taken.

    Raises:
        UserError: nothing is there, it is of no kind, or it breaks its contract.
    """
    for name in map(str, names):
        path = Path(name)
        if path.suffix in (".yaml", ".yml"):
            load_plugins(read_yaml(path).get("plugins") or {}, path.parent)
            continue
        found = classes_of(path) if path.suffix == ".py" else [load_class(name, "named")]
        known = [(kind, one) for one in found for kind in KINDS if KINDS[kind][0].takes(one)]
        if not known:
            rule = f"a plug-in derives from the contract of one of {', '.join(KINDS)}"
            raise UserError(rule, f"none in {name}", "see docs/extending.md")
        for kind, one in known:
            place = f"{path}:{one.__name__}" if path.suffix == ".py" else name
            load_plugins({kind: [place]}, Path())
