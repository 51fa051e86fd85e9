"""A user's own classes, named under ``plugins`` in a budget: which kinds there are, and how they are loaded.

Whoever reads a budget loads them, so every process that works for a search does: the driver and each worker, on this
machine or another.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sousvit.data.formats.format import FORMATS
from sousvit.errors import UnknownNameError, UserError
from sousvit.objectives.devices.open import DEVICES
from sousvit.objectives.objective import OBJECTIVES
from sousvit.objectives.runtimes.runtime import RUNTIMES
from sousvit.registry import Registry, absolute_reference
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
        for registry in KINDS[kind]:
            for reference in found.get(kind, ()):
                registry.load(reference)
    return found
