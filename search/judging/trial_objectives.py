"""The objectives that every trial of a budget measures."""

from __future__ import annotations

from collections.abc import Iterable

from sousvit.objectives import BUILTIN
from sousvit.objectives.objective import OBJECTIVES, Objective, get_objective
from sousvit.search.budget import Budget

#: Measured only where a budget asks for them: a process a trial, a second of compression, a counter not all have.
ON_REQUEST = frozenset({"memory", "load_time", "energy", "size_compressed", "agreement"})
#: Measured on every further target, too: what one timing tells.
ON_EVERY_TARGET = ("latency", "latency_p95", "latency_p99", "throughput")


def trial_objectives(budget: Budget) -> list[Objective]:
    """What every trial measures: cheap objectives, their forms relative to the base, and what the budget names.

    Of others that this process knows (plug-ins of packages, those of another budget), nothing is measured unasked.
    """
    own = {OBJECTIVES.load(reference).name for reference in budget.plugins["objectives"]}
    asked, tasks = ({*BUILTIN, *own} - ON_REQUEST), (None, budget.model.task)
    labelled = budget.data.kind == "labelled"
    usual = map(get_objective, sorted(asked))
    names = [one.name for one in usual if one.task in tasks and (labelled or not one.needs_labels)]
    names = names if labelled else ["agreement", *names]
    named = [*budget.optimize, *budget.limits]
    names += [name for name in ON_REQUEST if any(entry == name or entry.startswith(f"{name}_") for entry in named)]
    names += [_relative(name) for name in names]
    places = [target.label for target in budget.targets[1:]]
    cheap = [*ON_EVERY_TARGET, *map(_relative, ON_EVERY_TARGET)]
    names += [f"{name}@{place}" for place in places for name in cheap]
    return [get_objective(name) for name in dict.fromkeys([*names, *named])]


def _relative(name: str) -> str:
    objective = get_objective(name)
    return f"{name}_drop" if objective.direction == "maximize" and objective.unit == "share" else f"{name}_ratio"


def asked_of(target: str, named: Iterable[str], budget: Budget) -> list[str]:
    """Objectives that the budget asks of one of its targets, without the target's name."""
    first = budget.target.label
    pairs = [name.partition("@")[::2] for name in named]
    return [name for name, place in pairs if (place or first) == target]
