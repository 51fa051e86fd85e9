"""The final answer of a search: chosen, confirmed, then judged on images that the choice never saw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sousvit.files import write_atomic
from sousvit.objectives.tasks.task import task_measured
from sousvit.search.archive import Archive
from sousvit.search.budget import CONTACT_SHEET, Budget
from sousvit.search.callbacks import AnswerStage, Callback
from sousvit.search.confirmation import confirmed_answer
from sousvit.search.executors.executor import Executor, MakeTable
from sousvit.search.fidelity.learning_curve import FULL
from sousvit.search.goals import Goals
from sousvit.search.results import Answer, best, candidates, explained, judged, nearest_miss
from sousvit.search.stored.details_file import write_details
from sousvit.search.timekeeping.schedule import PARTS_SHARE
from sousvit.search.trial import Trial
from sousvit.search.verdict import HELD_BACK, hangs_on_images
from sousvit.spaces.technique import Stage
from sousvit.specs import LEAST_PART, DataSpec

if TYPE_CHECKING:
    from sousvit.search.timekeeping.schedule import Schedule


def final_answer(
    archive: Archive,
    goals: Goals,
    budget: Budget,
    executor: Executor,
    callback: Callback,
    schedule: Schedule | None = None,
) -> Answer:
    """Choose, confirm the choice, then judge it (and its parts) on the test split, within a ``schedule``."""
    callback.on_stage(AnswerStage.CHOOSING)
    answer = confirmed_answer(archive, goals, budget.search.confidence, executor, callback, schedule)
    if answer.chosen is None:
        return judged(answer, budget)
    answer = explained(answer, candidates(archive, goals), goals)
    before = archive.test_answers
    callback.on_stage(AnswerStage.BUILDING)
    found = _with_table(answer, archive, goals, budget, executor, schedule, _parts_seconds(archive, schedule))
    if budget.data.has_test:  # an answer that was cut short before told nobody anything
        archive.append("test_told")
    if before:
        note = f"the test split was read for earlier answers ({before}): choices made by them flatter this one"
        found = replace(found, notes=(*found.notes, note))
    return found


def completed_answer(
    answer: Answer, archive: Archive, goals: Goals, budget: Budget, executor: Executor, schedule: Schedule | None
) -> Answer:
    """The same answer with the rows without one technique that it lacked, all rows measured anew in one session.

    Nothing is chosen by it, so the test split tells no more than it did.
    """
    seconds = math.inf if schedule is None else max(0.0, schedule.table_seconds() - schedule.costs.table())
    return _with_table(answer, archive, goals, budget, executor, schedule, seconds)


def _parts_seconds(archive: Archive, schedule: Schedule | None) -> float:
    """What the rows without one technique may take: a quarter of the time that there is, or that the search took."""
    return PARTS_SHARE * archive.spent_seconds if schedule is None else schedule.parts_seconds()


def _with_table(
    answer: Answer,
    archive: Archive,
    goals: Goals,
    budget: Budget,
    executor: Executor,
    schedule: Schedule | None,
    parts_seconds: float,
) -> Answer:
    """A chosen answer with the rows of its final table, and what a reader must know of them."""
    chosen, pool = answer.chosen, candidates(archive, goals)
    assert chosen is not None
    if schedule is not None and chosen.status != "complete" and not schedule.may_train(chosen.parsed, chosen.fidelity):
        note = "no time was left to build and measure the nearest miss: its figures are those of the search"
        return judged(replace(answer, notes=(*answer.notes, note)), budget)
    if budget.data.has_test:  # noted before it happens: a crash during the read must not hide that it was read
        archive.append("test_read", recipe=chosen.recipe)
    with_parts = budget.search.leave_one_out and answer.feasible
    single, too_long = answer.single, ""
    is_untrained = single is not None and not single.is_final
    if schedule is not None and single is not None and is_untrained and not schedule.may_train(single.parsed, FULL):
        single, too_long = None, "no time was left to train the best single technique in full, so it has no row"
    table = executor.call(
        MakeTable(
            chosen.recipe,
            chosen.fidelity,
            single=None if single is None else single.recipe,
            retrain_base=_seems_better(chosen) and (schedule is None or schedule.may_train(chosen.parsed, FULL)),
            parts_seconds=parts_seconds if with_parts else 0.0,
            training_seconds=_training_seconds(chosen, archive),
            row_seconds=0.0 if schedule is None else schedule.costs.row(),
            seconds=math.inf if schedule is None else schedule.table_seconds(),
            instead=_instead(chosen, pool, goals),
        )
    )
    answer = replace(answer, single=single)
    if table.contact_sheet is not None:
        write_atomic(archive.folder / CONTACT_SHEET, table.contact_sheet)
    write_details(table.details, archive.folder)
    answer = judged(replace(answer, rows=table.rows, images=table.images, skipped=table.skipped), budget)
    notes = _notes(answer, goals) + _notes_on_confirmation(answer, archive, budget)
    notes += _notes_on_data(budget.data, answer.images) + table.notes
    notes += (too_long,) * bool(too_long)
    if table.absent:
        notes += (f"the search has nothing that stands for {', '.join(table.absent)}",)
    if table.skipped:
        notes += (
            "leaving out one technique at a time may take a quarter of the time; "
            f"not made: {', '.join(table.skipped)}; sousvit resume {archive.folder.name} goes on with them",
        )
    return replace(answer, notes=notes)


def _training_seconds(chosen: Trial, archive: Archive) -> float:
    """What the answer's training took; its other deployments found the weights ready."""
    same = (trial for trial in archive if trial.model_key == chosen.model_key)
    return max((trial.seconds.get("recover", 0.0) for trial in same), default=0.0)


def _instead(chosen: Trial, pool: Sequence[Trial], goals: Goals) -> dict[str, dict[str, Any] | None]:
    """By technique that gives another network (a student), the best recipe of the search that does without it.

    The recipe without that step would be the base, treated as the student was: not what a user would get without it.
    """
    found: dict[str, dict[str, Any] | None] = {}
    for step in chosen.parsed.steps:
        if step.handler.stage is Stage.ARCHITECTURE:
            others = [trial for trial in pool if trial.is_final and step.technique not in trial.techniques]
            answer = best(others, goals) or nearest_miss(others, goals)
            found[step.technique] = None if answer is None else answer.recipe
    return found


def _notes_on_confirmation(answer: Answer, archive: Archive, budget: Budget) -> tuple[str, ...]:
    """Whether the answer was confirmed on images that no trial was judged on, where a limit hangs on images."""
    if not answer.feasible or not any(hangs_on_images(name) for name in budget.limits):
        return ()
    found = answer.confirmation
    where = budget.data.validation_name
    if archive.base is None or not archive.base.num_unseen or found is None:
        if not budget.search.confirm:
            return (f"nothing of {where} was held back (confirm: 0), so the choice was not confirmed",)
        least = f"both parts need {LEAST_PART}"
        return (f"too few images of {where} to hold some back ({least}), so the choice was not confirmed",)
    if found.holds:
        return ()
    broken = budget.goals().at_least(found.confidence).explain(found.values, measured_only=True)
    where = f"the {found.num_images} {HELD_BACK}"
    others = f", nor was any other of the {found.tried} recipes tried there" if found.tried > 1 else ""
    return (f"not confirmed on {where}{others}: {'; '.join(broken)}",)


def _notes_on_data(data: DataSpec, images: str = "") -> tuple[str, ...]:
    """What the figures can say where there are no labels."""
    if data.kind == "labelled":
        return ()
    known = f"the search knew no labels: it judged agreement with the base on {data.validation_name}"
    if not data.final_is_validation or images == HELD_BACK:
        return (known,)
    return known, "the table is on the images that the recipe was chosen by, which flatters it: check it on others"


def _seems_better(chosen: Trial) -> bool:
    """Whether the whole 95% interval of the quality's drop lies below 0 (then the base was trained too little)."""
    drop = chosen.values.get(f"{task_measured(chosen.values).quality}_drop")
    return drop is not None and drop.high is not None and drop.high < 0


def _notes(answer: Answer, goals: Goals) -> tuple[str, ...]:
    notes = []
    test = {} if answer.row is None else answer.row.values
    broken = "; ".join(goals.at_confidence(0.5).explain(test, measured_only=True))
    noisy = [row.role for row in answer.rows if row.noisy]
    if noisy:
        notes.append(f"the machine was busy while {', '.join(noisy)} was timed: measure again before you rely on it")
    if answer.feasible and broken:
        notes.append(f"the search held every limit, the answer's images did not: {broken}")
    if answer.chosen is not None and answer.single is not None and answer.chosen.key == answer.single.key:
        notes.append("the best recipe found is a single technique: no hybrid was better")
    if answer.single is not None and not answer.single.is_final:
        notes.append("the single technique shown was not trained in full during the search, only for this table")
    elif answer.single is not None and not goals.holds(answer.single.values):
        notes.append("no single technique holds the limits; the one that misses them least is shown")
    return tuple(notes)
