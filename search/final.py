"""The final answer of a search: chosen, measured again, then judged on images that the choice never saw."""

from __future__ import annotations

from dataclasses import replace

from sousvit.files import write_atomic
from sousvit.objectives.tasks.task import task_measured
from sousvit.search.archive import Archive
from sousvit.search.budget import CONTACT_SHEET, Budget
from sousvit.search.callbacks import Callback
from sousvit.search.executors.executor import Executor, MakeTable, Verify
from sousvit.search.goals import Goals
from sousvit.search.results import Answer, Row, choose
from sousvit.search.trial import Trial, encode
from sousvit.specs import DataSpec

#: How often the best feasible recipe may fail its last check before the search gives up on feasibility.
VERIFICATIONS = 5


def final_answer(archive: Archive, goals: Goals, budget: Budget, executor: Executor, callback: Callback) -> Answer:
    """Choose, verify the choice by measuring it again, then judge it (and its parts) on the test split."""
    answer = _verified(archive, goals, executor, callback)
    if answer.chosen is None:
        return answer
    before = archive.test_answers
    if budget.data.has_test:  # noted before it happens: a crash during the read must not hide that it was read
        archive.append("test_read", recipe=answer.chosen.recipe)
    table = executor.call(
        MakeTable(
            answer.chosen.recipe,
            answer.chosen.fidelity,
            single=None if answer.single is None else answer.single.recipe,
            leave_one_out=budget.search.leave_one_out and answer.feasible,
            retrain_base=_seems_better(answer.chosen),
        )
    )
    if budget.data.has_test:  # an answer that was cut short before told nobody anything
        archive.append("test_told")
    if table.contact_sheet is not None:
        write_atomic(archive.folder / CONTACT_SHEET, table.contact_sheet)
    notes = _notes(answer, table.rows, goals) + _notes_on_data(budget.data) + table.notes
    if before:
        notes += (f"the test split was read for earlier answers ({before}): choices made by them flatter this one",)
    if table.skipped:
        notes += (f"building the parts took as long as the search was given; left out: {', '.join(table.skipped)}",)
    return replace(answer, rows=table.rows, notes=notes)


def _notes_on_data(data: DataSpec) -> tuple[str, ...]:
    """What the figures can say where there are no labels."""
    if data.kind == "labelled":
        return ()
    known = f"the search knew no labels: it judged agreement with the base on {data.validation_name}"
    if data.kind == "none" or data.has_test:
        return (known,)
    return known, "the table is on the images that the recipe was chosen by, which flatters it: check it on others"


def _verified(archive: Archive, goals: Goals, executor: Executor, callback: Callback) -> Answer:
    """The best recipe that holds the limits when it is measured again; the nearest miss where none does."""
    answer = choose(archive, goals)
    for _ in range(VERIFICATIONS):
        if answer.chosen is None or not answer.feasible:
            return answer
        again = executor.call(Verify(answer.chosen.recipe, answer.chosen.fidelity))
        broken = goals.violations(again, measured_only=True)
        if not broken:
            return answer
        callback.on_message(f"the best recipe broke {', '.join(broken)} when measured again; taking the next")
        said = "; ".join(goals.explain(again, measured_only=True))
        archive.append("rejected", key=answer.chosen.key, values=encode(again), broken=list(broken), said=said)
        answer, last = choose(archive, goals), answer
    if not answer.feasible:
        return answer
    callback.on_message(f"{VERIFICATIONS} recipes in a row broke a limit when measured again; giving up")
    return replace(last, feasible=False, violated=(f"measured again: {said}",))


def _seems_better(chosen: Trial) -> bool:
    """Whether the whole 95% interval of the quality's drop lies below 0 (then the base was trained too little)."""
    drop = chosen.values.get(f"{task_measured(chosen.values).quality}_drop")
    return drop is not None and drop.high is not None and drop.high < 0


def _notes(answer: Answer, rows: tuple[Row, ...], goals: Goals) -> tuple[str, ...]:
    notes = []
    test = next((row.values for row in rows if row.role == "recipe"), {})
    broken = "; ".join(goals.at_confidence(0.5).explain(test, measured_only=True))
    noisy = [row.role for row in rows if row.noisy]
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
