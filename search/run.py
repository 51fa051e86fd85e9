"""A search from budget to answer: opens (or resumes) the run folder, runs the engine, writes what it found."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from sousvit.checked import read_yaml
from sousvit.errors import UserError
from sousvit.files import write_atomic
from sousvit.objectives.objective import get_objective
from sousvit.search.archive import Archive
from sousvit.search.budget import Budget, make_budget, open_space, require_sound
from sousvit.search.callbacks import AnswerStage, Callback, Counts
from sousvit.search.engine import Engine
from sousvit.search.executors.executor import Executor
from sousvit.search.fidelity.halving import Halving, make_rungs
from sousvit.search.fidelity.learning_curve import FULL, UNTRAINED
from sousvit.search.final import completed_answer, final_answer
from sousvit.search.identity import damaged_inputs, note_inputs, require_same_inputs, told_of_damage
from sousvit.search.limits import Limit
from sousvit.search.proposers.proposer import PROPOSERS, Problem
from sousvit.search.proposers.queue import ProposalQueue
from sousvit.search.proposers.study_file import STUDY_FILE, StudyFile
from sousvit.search.report.tables import write_tables
from sousvit.search.results import Answer
from sousvit.search.reuse import take_over
from sousvit.search.stored.answer_file import DamagedAnswerError, read_answer, write_answer
from sousvit.search.stored.lines import collection_paused
from sousvit.search.stored.moved import former_folder, relocated
from sousvit.search.stored.opened import BUDGET, damaged_answer, lost_lines
from sousvit.search.stored.seal import sealed
from sousvit.search.stored.trust import note_code
from sousvit.search.timekeeping.costs import Costs
from sousvit.search.timekeeping.schedule import Schedule
from sousvit.search.timekeeping.session import Session
from sousvit.search.trial import BaseRecord, Trial
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.shape import ModelShape, read_shape
from sousvit.spaces.space import Space
from sousvit.spaces.technique import TECHNIQUES

#: How far a limit may lie above and below the base's figure, as factors: units are a thousand apart. What lies above
#: rejects nothing, in silence; what lies below may be meant.
ABOVE, BELOW = 500.0, 1e4
#: Share of the search's own time that writing its study may take; with few workers it is written after every trial.
STUDY_SHARE = 1 / 20
#: The most for a ratio: 25 is 25%.
RATIO_ABOVE = 10.0


def search(
    budget: Budget,
    folder: Path,
    make_executor: Callable[[Budget, Path], Executor],
    callback: Callback | None = None,
    clock: Callable[[], float] = time.monotonic,
    earlier: Path | None = None,
    allow_plugins: bool = False,
    begun: float | None = None,
    parts_seconds: float | None = None,
    options: Mapping[str, Any] | None = None,
    archive: Archive | None = None,
) -> Answer:
    """Run (or resume) the search in ``folder`` and return its answer; a new one may continue from an ``earlier`` run.

    Args:
        allow_plugins: load the plug-ins that the earlier run names, even if the user never named them.
        begun: when the budget's time began, on ``clock``; now by default. The answer ends within it, too.
        parts_seconds: of a finished run, go on for so long with the rows without one technique that it had no time for.
        options: how the run was begun, beside its budget; kept for whoever resumes it.
        archive: of the folder, open for writing; it is closed at the end. By default it is opened here.

    Raises:
        UserError: bad input, another budget in this folder, a full disk; nothing finished is lost.
        KeyboardInterrupt: passed on after the state is written; the same call resumes.
    """
    callback, begun = callback or Callback(), clock() if begun is None else begun
    require_sound(budget)
    if archive is None:
        archive = Archive(folder, writable=True, techniques=TECHNIQUES)
    with closing(archive):
        archive.damaged += lost_lines(archive)
        archive.mended += damaged_answer(archive) + damaged_inputs(folder)
        claim_run(archive, budget, budget.identity)
        if options is not None and options != archive.options:
            archive.append("options", options=dict(options))
        if earlier is not None and archive.base is None:
            count = take_over(archive, budget, earlier, allow_plugins)
            callback.on_message(f"{count} results taken over from {earlier.name}")
        tell_damage(archive, callback)
        require_same_inputs(budget, folder)
        if archive.base is not None and damaged_inputs(folder):
            note_inputs(budget, folder)
        stored = _stored_answer(archive)
        completes = stored is not None and bool(stored.skipped) and parts_seconds is not None
        if stored is not None and _is_spent(archive, budget) and not completes:
            return stored
        with make_executor(budget, folder) as executor:
            session = Session(archive, executor, callback, clock, begun)
            if stored is not None and completes:
                return _complete(stored, archive, budget, executor, session, parts_seconds)
            return _search(archive, budget, executor, session)


def tell_damage(archive: Archive, callback: Callback) -> None:
    """Say what was damaged of a run that goes on, before it does."""
    for damage in (*archive.mended, *archive.damaged):
        callback.on_message(f"damaged: {damage}; going on from what is whole")


def claim_run(archive: Archive, budget: Budget, identity: str) -> None:
    """Note whose run this is, and its budget.

    Raises:
        UserError: the run has figures of another budget already.
    """
    known = archive.header.get("identity")
    if known != identity and known is not None and _same_but_moved(archive, budget):
        identity = known
    if known != identity:
        if known is not None and archive.base is not None:
            raise UserError(
                "a run keeps its budget (only trials and time may change)",
                f"another budget for {archive.folder.name}",
                "use another --run name, or sousvit recipe to ask this run's archive",
            )
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        archive.append("run", identity=identity, started=started, folder=str(archive.folder.resolve()))
    text = yaml.safe_dump(budget.model_dump(mode="json"), sort_keys=False)
    write_atomic(archive.folder / BUDGET, sealed(text))
    note_code(budget)


def _same_but_moved(archive: Archive, budget: Budget) -> bool:
    """Whether a budget is the run's own, of a run that was moved or copied with what it names."""
    path = archive.folder / BUDGET
    if former_folder(archive.folder) is None or not path.is_file():
        return False
    values = relocated(read_yaml(path), archive.folder)
    given = budget.model_dump(mode="json")["plugins"]
    if (values.get("plugins") or {}) != given:  # reading a budget loads the code that it names
        return False
    return make_budget(values, archive.folder, str(path)).identity == budget.identity


def _stored_answer(archive: Archive) -> Answer | None:
    """The answer of an earlier session, if no trial has finished since: the test split is not read again for it."""
    try:
        stored = read_answer(archive.folder)
    except DamagedAnswerError:
        return None
    if stored is None or stored.lines > archive.last_line or stored.answer.cost.get("trials") != archive.own:
        return None
    return stored.answer


def _is_spent(archive: Archive, budget: Budget) -> bool:
    limits = budget.search
    if archive.own >= limits.trials:
        return True
    # A search that ended in time had some left, in which nothing fitted.
    return limits.time is not None and max(archive.spent_seconds, archive.ended_at or 0.0) >= limits.time


def _search(archive: Archive, budget: Budget, executor: Executor, session: Session) -> Answer:
    """Explore, then choose the answer, measure it and write it."""
    finished_before, ended_at = archive.own, {}
    try:
        schedule, engine = _explore(archive, budget, executor, session)
        if schedule is not None and archive.own < budget.search.trials:
            ended_at = {"ended_at": budget.search.time}
    finally:
        session.note(**ended_at)
    stored = _stored_answer(archive) if archive.own == finished_before else None
    if stored is not None:
        return stored
    callback, searched = session.callback, session.clock()
    callback.on_message(f"search over ({engine.stopped_because}); measuring the answer on {budget.data.final_name}")
    assert archive.base is not None  # the exploration began with it
    goals = budget.goals(archive.base.values)
    answer = final_answer(archive, goals, budget, executor, callback, schedule)
    notes = (*answer.notes, *_notes_on_time(budget, engine, session), *told_of_damage(archive.damaged))
    return _written(replace(answer, notes=notes), archive, budget, session, searched)


def _complete(
    answer: Answer,
    archive: Archive,
    budget: Budget,
    executor: Executor,
    session: Session,
    seconds: float | None,
) -> Answer:
    """A finished run's answer with the rows without one technique for which it had no time."""
    executor.start(archive.base)
    searched = session.clock()
    session.callback.on_stage(AnswerStage.BUILDING)
    assert archive.base is not None
    goals = budget.goals(archive.base.values)
    answer = completed_answer(answer, archive, goals, budget, executor, session.schedule(budget, seconds))
    return _written(answer, archive, budget, session, searched)


def _written(answer: Answer, archive: Archive, budget: Budget, session: Session, searched: float) -> Answer:
    """The answer with what it cost, written to the run's folder."""
    session.callback.on_stage(AnswerStage.WRITING)
    assert archive.base is not None
    answer = replace(answer, cost=session.cost(searched))
    session.note()
    write_answer(answer, budget, archive)
    write_tables(archive, budget.goals(archive.base.values), archive.folder)
    return answer


def _notes_on_time(budget: Budget, engine: Engine, session: Session) -> tuple[str, ...]:
    """What an answer says whose time was over before a recipe held the limits."""
    if not engine.counts.owed:
        return ()
    return (
        f"loading and measuring the base took {session.loading:.0f} s of {budget.search.time:.0f} s, and the answer "
        "needs more than the rest: only the base's deployments were judged; give the search more time",
    )


def _explore(archive: Archive, budget: Budget, executor: Executor, session: Session) -> tuple[Schedule | None, Engine]:
    """Run the engine until its trials or time are spent; returns it, with the schedule, if any."""
    callback, clock = session.callback, session.clock
    base = executor.start(archive.base)
    session.loading = clock() - session.begun
    check_measured(budget, base)  # before anything is kept, so that the same run begins with a mended budget
    if archive.base is None:
        archive.append("base", base=base.to_dict(), identity=budget.identity)
        note_inputs(budget, archive.folder)
    shape = read_shape(base.shape)
    space, left_out = open_space(budget, shape)
    callback.on_start(base, space, left_out)
    schedule = session.schedule(budget)
    told = _Foretelling(callback, session.costs(budget), schedule)
    with collection_paused():
        engine = make_engine(budget, archive, executor, base, shape, space, told, clock, schedule=schedule)
    engine.run()
    errors = engine.cost_errors()
    if errors:
        archive.append("predicted", errors=errors)
        callback.on_message(f"costs predicted for the order of candidates: {archive.prediction_errors}")
    return schedule, engine


def make_engine(
    budget: Budget,
    archive: Archive,
    executor: Executor,
    base: BaseRecord,
    shape: ModelShape,
    space: Space,
    callback: Callback,
    clock: Callable[[], float] = time.monotonic,
    with_study: bool = True,
    schedule: Schedule | None = None,
) -> Engine:
    """The engine with the budget's proposer and this release's fidelity policy.

    Args:
        with_study: keep its trials as a study of Optuna beside the archive.
        schedule: keeps time for the answer.
    """
    goals, search_limits = budget.goals(base.values), budget.search
    problem = Problem(space, shape, goals, search_limits.seed, search_limits.trials)
    proposer = PROPOSERS.get(search_limits.proposer)(problem)
    proposals = ProposalQueue(problem, proposer, archive)
    if with_study:
        study = StudyFile(archive, problem)
        if study.damaged:
            callback.on_message(f"damaged: {STUDY_FILE}; written anew from the archive")
        callback = _WithStudy(callback, study)
    low = search_limits.explore_fidelity if space.trains else FULL
    rungs, eta = make_rungs(low, search_limits.eta), search_limits.eta
    policy = Halving(rungs, low == UNTRAINED, eta, search_limits.explore_share, goals, archive.records)
    return Engine(budget, archive, proposals, executor, base, shape, policy, callback, clock, schedule)


class _Passing(Callback):
    """What the engine tells, passed on."""

    def __init__(self, callback: Callback) -> None:
        self._callback = callback

    def on_begin(self, origin: str, recipe: Recipe, fidelity: float) -> None:
        self._callback.on_begin(origin, recipe, fidelity)

    def on_message(self, text: str) -> None:
        self._callback.on_message(text)

    def on_wait(self, running: int) -> None:
        self._callback.on_wait(running)


class _Foretelling(_Passing):
    """With what the answer should take."""

    def __init__(self, callback: Callback, costs: Costs, schedule: Schedule | None) -> None:
        super().__init__(callback)
        self._costs, self._schedule = costs, schedule

    def on_trial(self, trial: Trial, counts: Counts) -> None:
        parts = 0.0 if self._schedule is None else self._schedule.foretold_parts()
        counts.answer_seconds = self._costs.verify() + self._costs.table() + parts
        self._callback.on_trial(trial, counts)


class _WithStudy(_Passing):
    """With trials written to the study while results are waited for, in a small share of the time."""

    def __init__(self, callback: Callback, study: StudyFile) -> None:
        super().__init__(callback)
        self._study = study
        #: When the next may be written.
        self._due = -math.inf

    def on_trial(self, trial: Trial, counts: Counts) -> None:
        self._callback.on_trial(trial, counts)

    def on_wait(self, running: int) -> None:
        begun = time.perf_counter()
        if begun >= self._due or not running:
            self._study.write()
            ended = time.perf_counter()
            self._due = ended + (ended - begun) / STUDY_SHARE
        self._callback.on_wait(running)


def check_measured(budget: Budget, base: BaseRecord) -> None:
    """Hold the budget against the base's figures.

    Raises:
        UserError: an objective was not measured, or a limit is in another unit or out of reach.
    """
    missing = [name for name in {*budget.optimize, *budget.limits} if name not in base.values]
    if missing:
        raise UserError(
            "every objective must be measurable on the base", f"{', '.join(sorted(missing))} is not", "leave it out"
        )
    for limit in budget.hard_limits:
        _require_plausible(limit, base)
        reachable = _best_possible(limit, base)
        if reachable is not None and (limit.bound > reachable if limit.maximise else limit.bound < reachable):
            raise UserError("a limit must be reachable", str(limit), f"no model can be better than {reachable:.4g}")


def _require_plausible(limit: Limit, base: BaseRecord) -> None:
    """Refuse a limit so far from the base's figure that another unit must have been meant, as in ``size: 2000000``."""
    objective = get_objective(limit.name)
    figure = 1.0 if objective.unit == "ratio" else base.values[limit.name].value
    if objective.unit == "share" or objective.signed or figure <= 0:
        return
    above = RATIO_ABOVE if objective.unit == "ratio" else ABOVE
    if not figure / BELOW <= limit.bound <= figure * above:
        unit = "" if objective.unit == "ratio" else f" {objective.unit}"
        what = f"a base of {figure:.4g}{unit}" if unit else "a base of 1"
        action = f"write for instance {figure / 2:.3g}{unit}" if unit else "write for instance 0.5, or 50%"
        raise UserError("a limit lies near the base's figure", f"{limit} for {what}", action)


def _best_possible(limit: Limit, base: BaseRecord) -> float | None:
    """The bound that no model can pass: shares end at 1, and nothing costs less than nothing. None without one."""
    original, _, form = limit.name.rpartition("_")
    if form not in ("drop", "ratio") or original not in base.values:
        return None
    reference, objective = base.values[original].value, get_objective(original)
    if objective.direction == "minimize":
        return reference if form == "drop" else None
    if objective.unit != "share" or reference <= 0:
        return None
    return reference - 1 if form == "drop" else 1 / reference
