"""A user's own objectives, named ``file.py:Class`` in a budget."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from sousvit.common.errors import UserError
from sousvit.common.registry import load_from_file
from sousvit.objectives.objective import OBJECTIVES, Objective, Stage


def load_objective(reference: str, folder: Path | None = None) -> Objective:
    """Import, check and register the objective class that ``reference`` names; the same one again is harmless.

    Args:
        reference: ``path/to/file.py:ClassName``.
        folder: where relative paths start.

    Raises:
        UserError: the file or class is missing, the class breaks the contract, or its name is taken.
    """
    import sousvit.objectives.builtin  # noqa: F401 - so that a plug-in cannot take one of our names

    found = check_class(load_from_file(reference, "objective", folder), reference)
    name = found.name
    if name in OBJECTIVES and type(OBJECTIVES.get(name)) is found:
        return OBJECTIVES.get(name)
    try:
        objective = found()
    except Exception as error:  # a plug-in's own code
        raise UserError(
            "an objective plug-in is made without arguments", f"{type(error).__name__}: {error}", f"repair {reference}"
        ) from error
    return OBJECTIVES.add(name, objective)


def check_class(found: type, reference: str) -> type[Objective]:
    """``found``, after checking what can be seen without measuring.

    Raises:
        UserError: names the first broken rule.
    """
    action = f"correct {reference}"
    if not issubclass(found, Objective):
        raise UserError("an objective derives from sousvit.objectives.objective.Objective", found.__name__, action)
    missing = [key for key in ("name", "unit", "direction", "stage", "summary") if not hasattr(found, key)]
    if missing:
        raise UserError("an objective declares name, unit, direction, stage, summary", f"no {missing[0]}", action)
    if inspect.isabstract(found):
        raise UserError("an objective defines measure(subject)", f"{found.__name__} without it", action)
    if not isinstance(found.name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", found.name):
        raise UserError("an objective's name is snake_case", repr(found.name), action)
    if found.name.endswith(("_ratio", "_drop")):
        raise UserError("names ending in _ratio and _drop belong to relative forms", repr(found.name), action)
    if found.direction not in ("minimize", "maximize"):
        raise UserError("an objective's direction is minimize or maximize", repr(found.direction), action)
    if not isinstance(found.stage, Stage):
        raise UserError("an objective's stage is a Stage", repr(found.stage), action)
    if not all(isinstance(text, str) and text for text in (found.unit, found.summary)):
        raise UserError("an objective's unit and summary are texts", f"{found.unit!r}, {found.summary!r}", action)
    return found
