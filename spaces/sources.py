"""Sources of a space: the checkpoints that its techniques take, such as ``student: {checkpoint: [weights.pth]}``."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sousvit.models.checkpoints.forms import resolved_source
from sousvit.spaces.technique import TECHNIQUES


def located(space: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A space, as plain values, whose checkpoints have absolute paths; relative ones start in ``folder``."""
    found: dict[str, Any] = copy.deepcopy(dict(space))
    for technique, parameter, listed in _sources(space):
        absolute = [resolved_source(entry, folder) if isinstance(entry, str) else entry for entry in listed]
        found["techniques"][technique][parameter] = absolute
    return found


def checkpoints(space: str | Mapping[str, Any]) -> dict[str, list[str]]:
    """What they are, by the key of the budget that names them; presets have none."""
    found = () if isinstance(space, str) else _sources(space)
    return {
        f"space.techniques.{technique}.{parameter}": [entry for entry in listed if isinstance(entry, str)]
        for technique, parameter, listed in found
    }


def _sources(space: Mapping[str, Any]) -> Iterator[tuple[str, str, list[Any]]]:
    """Technique, parameter and its values."""
    techniques = space.get("techniques")
    for name, parameters in techniques.items() if isinstance(techniques, Mapping) else ():
        if name in TECHNIQUES and isinstance(parameters, Mapping):
            for parameter in TECHNIQUES.get(name).sources & parameters.keys():
                listed = parameters[parameter]
                yield name, parameter, list(listed) if isinstance(listed, list | tuple) else [listed]
