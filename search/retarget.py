"""An old run on new targets: its front's artifacts are measured there, nothing is trained, accuracy is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path

from sousvit.common.errors import TrialError, UserError
from sousvit.objectives.objective import get_objective
from sousvit.objectives.targets.device import Device, open_device
from sousvit.objectives.timing import TimingPlan
from sousvit.search.answer import Answer, choose_among
from sousvit.search.archive import Archive, open_run
from sousvit.search.budget import Budget
from sousvit.search.record import BaseRecord, TrialRecord, Value
from sousvit.search.requery import FIXED, read_other, require_measured
from sousvit.search.subject import PlacedSubject, measure
from sousvit.search.trial_objectives import asked_of, trial_objectives
from sousvit.spaces.artifact import Artifact


def retarget(folder: Path, path: Path, say: Callable[[str, int, int], None]) -> tuple[Answer, Budget]:
    """Answer the budget at ``path``, which may name other targets, from the artifacts that the run in ``folder`` kept.

    Args:
        say: told what is measured, how many are done, and of how many.

    Raises:
        UserError: another model, data or space than the run's; a device that cannot be used; no artifacts.
    """
    own, archive = open_run(folder)
    other = read_other(own, path, [name for name in FIXED if name != "targets"])
    kept = _kept(archive, folder)
    devices = {target.label: open_device(target) for target in other.targets}
    try:
        return _measured(archive, other, folder, kept, devices, say), other
    finally:
        for device in devices.values():
            device.close()


def _kept(archive: Archive, folder: Path) -> list[TrialRecord]:
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
    kept: list[TrialRecord],
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


def _answer(trials: list[TrialRecord], base: BaseRecord, budget: Budget) -> Answer:
    return choose_among(trials, base, budget.hard_limits, budget.optimize)


def _moved(trial: TrialRecord, folder: Path, base: PlacedSubject, plan: TimingPlan, budget: Budget) -> TrialRecord:
    """The trial with its figures on the new targets."""
    if trial.recipe["runtime"] not in budget.runtimes:
        raise TrialError(f"the targets run {' or '.join(budget.runtimes)}")
    artifact = Artifact.open(folder / "artifacts" / trial.artifact)
    subject = PlacedSubject(artifact=artifact, devices=base.devices, reference=base, plan=plan)
    return replace(trial, values=_figures(subject, budget, trial.values))


def _figures(subject: PlacedSubject, budget: Budget, known: dict[str, Value]) -> dict[str, Value]:
    """What differs from target to target, measured now; everything else as it is known."""
    lasting = {name: value for name, value in known.items() if name in _lasting(known)}
    placed = [objective for objective in trial_objectives(budget) if objective.per_target]
    return {**lasting, **measure(subject, placed)}


def _lasting(names: Iterable[str]) -> set[str]:
    return {name for name in names if not get_objective(name).per_target}
