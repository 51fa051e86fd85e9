"""Objectives, techniques and runtimes of a user's own, from Python: known in this process, and where trials run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sousvit.errors import UserError, one_line
from sousvit.objectives import BUILTIN
from sousvit.objectives.objective import OBJECTIVES, Objective, check_class, get_objective
from sousvit.objectives.runtimes.runtime import RUNTIMES
from sousvit.registry import Registry, reference_of
from sousvit.search.executors.open import INLINE
from sousvit.search.judging.trial_objectives import ON_REQUEST
from sousvit.spaces.space import read_space
from sousvit.spaces.technique import TECHNIQUES, Technique, get_technique

if TYPE_CHECKING:
    from sousvit.objectives.runtimes.runtime import Runtime

T = TypeVar("T")


def register_objective(objective: type[Objective] | Objective) -> None:
    """Make an objective known in this process; the same one again is harmless.

    Raises:
        UserError: it breaks the contract, or its name is taken.
    """
    check_class(_class_of(objective), _class_of(objective).__name__)
    _register(OBJECTIVES, objective)


def register_technique(technique: type[Technique] | Technique) -> None:
    """Make a technique known in this process; the same one again is harmless.

    Raises:
        UserError: it breaks the contract, or its name is taken.
    """
    kind = _class_of(technique)
    if not issubclass(kind, Technique):
        action = "derive a class from sousvit.spaces.technique.ModelTechnique or DeployTechnique"
        raise UserError("a technique of your own is a class", repr(technique), action)
    missing = [key for key in ("name", "stage", "config", "summary", "source") if not hasattr(kind, key)]
    if missing:
        action = f"correct {kind.__name__}"
        raise UserError("a technique declares name, stage, config, summary, source", f"no {missing[0]}", action)
    _register(TECHNIQUES, technique)


def register_runtime(runtime: type[Runtime] | Runtime) -> None:
    """Make a runtime known in this process; the same one again is harmless.

    Raises:
        UserError: its name is taken.
    """
    _register(RUNTIMES, runtime)


def _register(registry: Registry[Any], given: Any) -> None:
    """Add ``given``, or an instance of it, under its name."""
    if given.name in registry and given in (registry.get(given.name), type(registry.get(given.name))):
        return
    try:
        item = given() if isinstance(given, type) else given
    except Exception as error:  # a user's own code
        rule = f"a class of a {registry.kind} is made without arguments"
        raise UserError(rule, one_line(error), "give an instance") from error
    registry.add(item.name, item)


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
    kind = check_class(_class_of(given), _class_of(given).__name__)
    reference = None
    if isinstance(given, type):
        reference = _reference(kind, executor)
    elif executor != INLINE:
        raise _stays(f"an instance of {kind.__name__}")
    else:
        register_objective(given)
    forms = {kind.name, f"{kind.name}_ratio", f"{kind.name}_drop"}
    is_usual = reference is not None or kind.name in {*BUILTIN} - ON_REQUEST
    if not is_usual and not any(name.partition("@")[0] in forms for name in named):
        rule = "an objective that costs more, or stands in no file, is measured where a budget names it"
        raise UserError(rule, kind.name, "name it in optimize or limits")
    return reference


def _reference(kind: type[Objective], executor: str) -> str | None:
    """The reference of an objective's class, unless it is ours; one that no file has is registered in this process."""
    if kind.__module__.startswith("sousvit."):
        return None
    reference = reference_of(kind)
    if reference is None and executor != INLINE:
        raise _stays(f"{kind.__name__}, which stands in no file")
    if reference is None:
        register_objective(kind)
    return reference


def space_input(space: Any, techniques: Sequence[Any], executor: str) -> Any:
    """A space as a budget takes it, with techniques of the user's own added.

    Args:
        space: a preset's name, a YAML file, a mapping, or names of techniques.
        techniques: classes, instances or names to add, each with its own choice of values.
        executor: where trials run.

    Raises:
        UserError: not a technique, or one that worker processes cannot import.
    """
    if isinstance(space, list | tuple):
        space = {"techniques": {get_technique(name).name: {} for name in space}}
    space = str(space) if isinstance(space, Path) else space
    if not techniques:
        return space
    definition = read_space(space)
    names = [_technique(entry, executor) for entry in techniques]
    added: dict[str, Any] = {name: {} for name in names if name not in definition["techniques"]}
    return {**definition, "techniques": {**definition["techniques"], **added}}


def _technique(entry: Any, executor: str) -> str:
    """The name of a technique that trials can find."""
    entry = get_technique(entry) if isinstance(entry, str) else entry
    register_technique(entry)
    kind = _class_of(entry)
    if executor != INLINE and not kind.__module__.startswith("sousvit."):
        raise UserError("a technique from Python stays in its process", kind.__name__, "use executor='inline'")
    return str(kind.name)


def _class_of(given: Any) -> Any:
    return given if isinstance(given, type) else type(given)


def _stays(received: str) -> UserError:
    action = "give a class that stands in a file, or use executor='inline'"
    return UserError("worker processes import an objective from its file", received, action)
