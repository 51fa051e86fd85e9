"""Objectives, techniques and runtimes of a user's own, from Python: known in this process, and where trials run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sousvit.errors import UserError
from sousvit.objectives import BUILTIN
from sousvit.objectives.objective import OBJECTIVES, Objective, get_objective
from sousvit.registry import reference_of
from sousvit.search.executors.open import INLINE
from sousvit.search.judging.trial_objectives import ON_REQUEST
from sousvit.search.plugins import KINDS
from sousvit.spaces.space import read_space
from sousvit.spaces.technique import TECHNIQUES, Technique, get_technique

if TYPE_CHECKING:
    from sousvit.objectives.devices.device import Device
    from sousvit.objectives.runtimes.runtime import Runtime
    from sousvit.search.proposers.proposer import Proposer


def register_objective(objective: type[Objective] | Objective) -> None:
    """Make an objective known in this process; the same one again is harmless.

    Raises:
        UserError: it breaks the contract, or its name is taken.
    """
    _register("objectives", objective)


def register_technique(technique: type[Technique] | Technique) -> None:
    """Make a technique known in this process; the same one again is harmless.

    Raises:
        UserError: it breaks the contract, or its name is taken.
    """
    _register("techniques", technique)


def register_runtime(runtime: type[Runtime]) -> None:
    """Make a runtime, and the exporter that it names, known in this process; the same one again is harmless.

    Raises:
        UserError: it breaks the contract, or its name is taken.
    """
    _register("runtimes", runtime)


def register_proposer(proposer: type[Proposer]) -> None:
    """Make a proposer known in this process; the same one again is harmless.

    Raises:
        UserError: it breaks the contract, or its name is taken.
    """
    _register("proposers", proposer)


def register_device(device: type[Device]) -> None:
    """Make a kind of device known in this process; the same one again is harmless.

    Raises:
        UserError: it breaks the contract, or its name is taken.
    """
    _register("devices", device)


def _register(kind: str, given: Any) -> None:
    """Add a class, or an instance as it is, to the registries of its kind."""
    for registry in KINDS[kind]:
        registry.put(given)


def objectives_input(own: Iterable[Any], named: Iterable[str], executor: str) -> list[str]:
    """Objectives of the user's own, ready to be measured: references for the workers, as ``file.py:Class``.

    Args:
        own: classes, instances, references or names.
        named: what the budget names; objectives of the user's own among them are taken too.
        executor: where trials run.

    Raises:
        UserError: not an objective, one that worker processes cannot import, or one that must be named.
    """
    named = list(named)
    found = [_objective(entry, named, executor) for entry in own]
    for name in named:
        try:
            objective: Any = get_objective(name)
        except UserError:
            continue  # it may stand in a file that is loaded next; what is wrong is told with the budget
        while hasattr(objective, "original"):
            objective = objective.original
        found.append(_reference(type(objective), executor))
    return list(dict.fromkeys(reference for reference in found if reference is not None))


def _objective(entry: Any, named: Sequence[str], executor: str) -> str | None:
    """The reference of one objective; None where it is known wherever trials run, and measured if it is named."""
    if isinstance(entry, str) and ":" in entry:
        return entry
    given = type(get_objective(entry)) if isinstance(entry, str) else entry
    kind: Any = OBJECTIVES.check(_class_of(given))
    reference = None
    if isinstance(given, type):
        reference = _reference(kind, executor)
    elif executor != INLINE:
        raise _stays("an objective", f"an instance of {kind.__name__}")
    else:
        register_objective(given)
    forms = {kind.name, f"{kind.name}_ratio", f"{kind.name}_drop"}
    is_usual = reference is not None or kind.name in {*BUILTIN} - ON_REQUEST
    if not is_usual and not any(name.partition("@")[0] in forms for name in named):
        rule = "an objective that is costly, or defined in no file, is measured only where it is named"
        raise UserError(rule, kind.name, "name it in optimize or limits")
    return reference


def _reference(kind: type[Objective], executor: str) -> str | None:
    """The reference of an objective's class, unless it is ours; one that no file has is registered in this process."""
    if kind.__module__.startswith("sousvit."):
        return None
    reference = reference_of(kind)
    if reference is None and executor != INLINE:
        raise _stays("an objective", f"{kind.__name__}, which stands in no file")
    if reference is None:
        register_objective(kind)
    return reference


def techniques_input(techniques: Sequence[Any], executor: str) -> tuple[list[str], list[str]]:
    """Techniques of the user's own: their names, and references for the workers, as ``file.py:Class``.

    Args:
        techniques: classes, instances or names.
        executor: where trials run.

    Raises:
        UserError: not a technique, or one that worker processes cannot import.
    """
    names, references = [], []
    for entry in techniques:
        technique = get_technique(entry) if isinstance(entry, str) else entry
        register_technique(technique)
        kind = _class_of(technique)
        names.append(str(kind.name))
        if kind.__module__.startswith("sousvit.") or executor == INLINE:
            continue
        reference = reference_of(kind) if isinstance(technique, type) else TECHNIQUES.reference(kind.name)
        if reference is None:
            raise _stays("a technique", kind.__name__)
        references.append(reference)
    return names, references


def space_input(space: Any, techniques: Sequence[str]) -> Any:
    """A space as a budget takes it, with more techniques added.

    Args:
        space: a preset's name, a YAML file, a mapping, or names of techniques.
        techniques: names to add, each with its own choice of values.

    Raises:
        UserError: not a space, or no such technique.
    """
    if isinstance(space, list | tuple):
        space = {"techniques": {get_technique(name).name: {} for name in space}}
    space = str(space) if isinstance(space, Path) else space
    if not techniques:
        return space
    definition = read_space(space)
    added: dict[str, Any] = {name: {} for name in techniques if name not in definition["techniques"]}
    return {**definition, "techniques": {**definition["techniques"], **added}}


def _class_of(given: Any) -> Any:
    return given if isinstance(given, type) else type(given)


def _stays(kind: str, received: str) -> UserError:
    action = "give a class that stands in a file, or use executor='inline'"
    return UserError(f"worker processes import {kind} from its file", received, action)
