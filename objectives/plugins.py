"""A user's own objectives, named ``file.py:Class`` in a budget."""

from __future__ import annotations

from pathlib import Path

from sousvit.errors import UserError
from sousvit.objectives.objective import OBJECTIVES, Objective, check_class
from sousvit.registry import load_from_file


def load_objective(reference: str, folder: Path | None = None) -> Objective:
    """Import, check and register the objective class that ``reference`` names; the same one again is harmless.

    Args:
        reference: ``path/to/file.py:ClassName``.
        folder: where relative paths start.

    Raises:
        UserError: the file or class is missing, the class breaks the contract, or its name is taken.
    """
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
