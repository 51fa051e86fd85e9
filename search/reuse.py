"""Reuse of a run: other budgets from its archive, other targets from its artifacts, a search that continues from it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sousvit.checked import read_yaml
from sousvit.errors import TrialError, UserError
from sousvit.files import disk_errors_as_user_errors
from sousvit.objectives.devices.device import Device
from sousvit.objectives.devices.isolated import open_isolated
from sousvit.objectives.objective import Measurement, get_objective
from sousvit.objectives.subject import PlacedSubject, measure
from sousvit.objectives.timing import TimingPlan
from sousvit.search.archive import Archive
from sousvit.search.budget import Budget, make_budget, open_space
from sousvit.search.judging.trial_objectives import asked_of, trial_objectives
from sousvit.search.results import Answer, candidates, choose, choose_among, explained, judged
from sousvit.search.stored.opened import open_run
from sousvit.search.trial import BaseRecord, Trial
from sousvit.spaces.export.artifact import Artifact
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.shape import ModelShape, read_shape
from sousvit.spaces.space import Space

#: Parts of a budget that an archive's figures hang on, and the space that its recipes come from.
FIXED = ("model", "data", "targets", "space")


def answer_other_budget(folder: Path, asked: Path | Mapping[str, Any]) -> tuple[Answer, Budget]:
    """The best archived recipe for another budget, a file or its values.

    It may leave out model, data, targets and space.

    Raises:
        UserError: another model, data, target or space than the run's; an objective that it did not measure.
    """
    own, archive = open_run(folder)
    other = read_other(own, asked, FIXED)
    assert archive.base is not None
    require_measured([*other.optimize, *other.limits], archive.base.values)
    goals = other.goals(archive.base.values)
    return judged(explained(choose(archive, goals), candidates(archive, goals), goals), other), other


def read_other(own: Budget, asked: Path | Mapping[str, Any], fixed: Sequence[str]) -> Budget:
    """Another budget, a file or its values; what it leaves out of :data:`FIXED` is the run's own.

    Raises:
        UserError: a ``fixed`` part is another than the run's.
    """
    plain = own.model_dump(mode="json")
    value = read_yaml(asked) if isinstance(asked, Path) else asked
    folder, where = (asked.parent, str(asked)) if isinstance(asked, Path) else (Path(), "the budget")
    other = make_budget({**{name: plain[name] for name in FIXED}, **value}, folder, where)
    for name in fixed:
        if other.part(name) != own.part(name):
            retarget = "leave it out, or measure its front there with sousvit retarget"
            raise UserError(
                f"an archive answers for its own {name} only",
                f"another {name} in {where}",
                retarget if name == "targets" else "leave it out, or run a new search",
            )
    return other


def require_measured(names: Iterable[str], values: Mapping[str, Measurement]) -> None:
    """Every objective that is named has a figure.

    Raises:
        UserError: one has none.
    """
    missing = sorted(set(names) - set(values))
    if missing:
        raise UserError(
            "an archive answers by what its run measured", f"no {', '.join(missing)}", "run a search with this budget"
        )


def retarget(
    folder: Path, asked: Path | Mapping[str, Any], say: Callable[[str, int, int], None]
) -> tuple[Answer, Budget]:
    """Answer another budget, which may name other targets, from the artifacts that the run in ``folder`` kept.

    Args:
        asked: the budget's file, or its values.
        say: told what is measured, how many are done, and of how many.

    Raises:
        UserError: another model, data or space than the run's; a device that cannot be used; no artifacts.
    """
    own, archive = open_run(folder)
    other = read_other(own, asked, [name for name in FIXED if name != "targets"])
    _require_named(other, asked, folder)
    kept = _kept(archive, folder)
    devices = {target.label: open_isolated(target) for target in other.targets}
    try:
        return _measured(archive, other, folder, kept, devices, say), other
    finally:
        for device in devices.values():
            device.close()


def _require_named(budget: Budget, asked: Path | Mapping[str, Any], folder: Path) -> None:
    """Refuse to send a token and artifacts to an agent that only the run's folder names, which may be anyone's."""
    agents = [target.agent for target in budget.targets if target.agent is not None]
    if agents and "targets" not in (asked if isinstance(asked, Mapping) else read_yaml(asked)):
        rule = "a run is data: an agent is asked where you name it"
        raise UserError(rule, f"{', '.join(agents)} in {folder}", "name the target")


def _kept(archive: Archive, folder: Path) -> list[Trial]:
    kept = [
        trial
        for trial in archive
        if trial.is_final and trial.artifact and (folder / "artifacts" / trial.artifact / "artifact.json").is_file()
    ]
    if not kept:
        raise UserError("a run must have kept artifacts of its front", f"none in {folder}", "run a search there")
    return kept


def _measured(
    archive: Archive,
    budget: Budget,
    folder: Path,
    kept: list[Trial],
    devices: dict[str, Device],
    say: Callable[[str, int, int], None],
) -> Answer:
    assert archive.base is not None
    named = [*budget.optimize, *budget.limits]
    facts = {name: device.check(asked_of(name, named, budget)) for name, device in devices.items()}
    plan = TimingPlan.of(budget.search.measure_time)
    say("measuring the base", 0, len(kept))
    artifact = Artifact.open(folder / "artifacts" / "base")
    for device in devices.values():
        device.keep(artifact)
    base = PlacedSubject(artifact=artifact, devices=devices, plan=plan.careful())
    figures = _figures(base, budget, archive.base.values)
    timings = {name: asdict(base.timing_on(name)) for name in devices}
    machine = {**facts[budget.target.label], "devices": facts}
    record = replace(archive.base, values=figures, machine=machine, timings=timings)
    require_measured(named, figures)
    trials, notes = [], []
    for done, trial in enumerate(kept):
        say("measuring the front", done, len(kept))
        try:
            trials.append(_moved(trial, folder, base, plan, budget))
        except TrialError as error:
            notes.append(f"{' + '.join([*trial.techniques, trial.recipe['runtime']])} cannot be used there: {error}")
    return replace(_answer(trials, record, budget), notes=tuple(notes))


def _answer(trials: list[Trial], base: BaseRecord, budget: Budget) -> Answer:
    goals = budget.goals(base.values)
    return judged(explained(choose_among(trials, goals), trials, goals), budget)


def _moved(trial: Trial, folder: Path, base: PlacedSubject, plan: TimingPlan, budget: Budget) -> Trial:
    """The trial with its figures on the new targets."""
    if trial.recipe["runtime"] not in budget.runtimes:
        raise TrialError(f"the targets run {' or '.join(budget.runtimes)}")
    artifact = Artifact.open(folder / "artifacts" / trial.artifact)
    subject = PlacedSubject(artifact=artifact, devices=base.devices, reference=base, plan=plan)
    return replace(trial, values=_figures(subject, budget, trial.values))


def _figures(subject: PlacedSubject, budget: Budget, known: dict[str, Measurement]) -> dict[str, Measurement]:
    """What differs from target to target, measured now; everything else as it is known."""
    lasting = {name: value for name, value in known.items() if name in _lasting(known)}
    placed = [objective for objective in trial_objectives(budget) if objective.per_target]
    return {**lasting, **measure(subject, placed)}


def _lasting(names: Iterable[str]) -> set[str]:
    return {name for name in names if not get_objective(name).per_target}


#: Parts of a budget that figures hang on.
MEASURED_WITH = ("model", "data", "targets")
CACHE = "cache"


def take_over(archive: Archive, budget: Budget, earlier: Path, allow_plugins: bool = False) -> int:
    """Fill an empty archive with the finished results of the run in ``earlier``; returns how many.

    What was gated there is left behind, because other limits may let it pass, and what lies outside the budget's space,
    because no answer may. Files are linked where the disk allows it.

    Raises:
        UserError: no such run, another model, data, target or seed, or an objective that it did not measure.
    """
    own, old = open_run(earlier, allow_plugins)
    archive.damaged += [f"{earlier.name}, the earlier run: {damage}" for damage in old.damaged]
    seed = own.search.seed
    if seed != budget.search.seed:  # trained with another seed, a recipe is another model
        received = f"{budget.search.seed}, {seed} in {earlier.name}"
        raise UserError("a search continues from a run with the same seed", received, f"search with --seed {seed}")
    share = own.search.confirm
    if share != budget.search.confirm:  # its trials were judged on images that this search would hold back
        rule, received = "a search continues from a run that held back the same images", f"confirm: {share}"
        raise UserError(rule, f"{received} in {earlier.name}", f"write search: {{confirm: {share}}}")
    for name in MEASURED_WITH:
        if own.part(name) != budget.part(name):
            raise UserError(
                "a search continues from a run with the same model, data and target",
                f"another {name} in {earlier.name}",
                "search without --from",
            )
    assert old.base is not None
    named = {*budget.optimize, *budget.limits}
    missing = sorted(named - set(old.base.values))
    if missing:
        raise UserError("an earlier run must have measured every objective", f"no {', '.join(missing)}",
                        "search without --from")  # fmt: skip
    _link(earlier / CACHE, archive.folder / CACHE)
    shape = read_shape(old.base.shape)
    space, _ = open_space(budget, shape)
    complete = [
        trial
        for trial in old
        if trial.status == "complete" and named <= trial.values.keys() and _lies_in(space, trial, shape)
    ]
    for trial in complete:
        archive.add(replace(trial, source=trial.source or earlier.name, artifact="", number=None))
    if old.test_answers and not archive.test_answers:
        archive.append("test_told", answers=old.test_answers, source=earlier.name)
    if old.num_tried and not archive.num_tried:
        archive.append("tried", recipes=old.num_tried, source=earlier.name)
    # Last: without it a crash before here starts over.
    archive.append("base", base=old.base.to_dict(), identity=budget.identity)
    return len(complete)


def _lies_in(space: Space, trial: Trial, shape: ModelShape) -> bool:
    try:
        return space.parameters(Recipe.from_dict(trial.recipe), shape) is not None
    except UserError:
        return False


def _link(source: Path, folder: Path) -> None:
    with disk_errors_as_user_errors(folder):
        for path in source.rglob("*.safetensors"):
            target = folder / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                continue
            with contextlib.suppress(FileNotFoundError):  # the earlier run may be making room
                try:
                    os.link(path, target)
                except OSError:
                    shutil.copy2(path, target)
