"""The answer: verified once more, infeasible where nothing holds, and honest about what was not measured."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest

from sousvit.errors import TrialError, UserError
from sousvit.objectives.objective import Measurement
from sousvit.objectives.subject import measure
from sousvit.search.archive import Archive
from sousvit.search.callbacks import Callback
from sousvit.search.executors.executor import JobResult, MakeTable, Verify
from sousvit.search.final import _instead, _notes_on_data, final_answer
from sousvit.search.report.terminal import console, print_answer
from sousvit.search.results import FinalTable, Row, choose
from sousvit.search.run import check_measured, claim_run
from sousvit.search.trial import BaseRecord, Trial
from sousvit.spaces.recipe import Recipe, Step
from sousvit.specs import DataSpec

#: A small base's figures.
FIGURES = {"macs": 0.5, "size": 1.0, "latency": 2.0, "latency_ratio": 1.0, "accuracy": 0.8, "accuracy_drop": 0.0}
BASE = BaseRecord({name: Measurement(value) for name, value in FIGURES.items()}, {}, {})


class Told(Callback):
    def __init__(self):
        self.lines = []

    def on_message(self, text):
        self.lines.append(text)


def finished(simulated, verify, **changes):
    """A simulated run whose worker answers ``verify`` by the given function and the final table with two rows."""
    run = simulated(**changes)
    run.engine.run()

    def make_table(request):
        values = {"latency_ratio": Measurement(0.5), "accuracy_drop": Measurement(0.01)}
        rows = [Row("base", {}, values), Row("recipe", request.recipe, values, noisy=True)]
        rows.append(Row("best single", request.single or {}, values))
        return FinalTable(tuple(rows), skipped=("without tome",), notes=("3 boxes dropped in train",))

    run.executor._answers.update({Verify: verify, MakeTable: make_table})
    told = Told()
    return run, final_answer(run.archive, run.engine.goals, run.budget, run.executor, told), told.lines


def holds(request):
    return {"latency_ratio": Measurement(0.1), "accuracy_drop": Measurement(0.0)}


def breaks(request):
    return {"latency_ratio": Measurement(0.9), "accuracy_drop": Measurement(0.0)}


def test_a_recipe_that_holds_is_returned_with_its_rows(simulated):
    run, answer, _ = finished(simulated, holds)
    assert answer.feasible and not run.archive.rejected
    assert [row.role for row in answer.rows] == ["base", "recipe", "best single"]
    assert any("the machine was busy while recipe was timed" in note for note in answer.notes)
    assert any("a quarter of the time; not made: without tome; sousvit resume" in note for note in answer.notes)
    assert "3 boxes dropped in train" in answer.notes, "what reading the data changed"


WITHOUT_STUDENT = {"techniques": {"prune_mlp": {}, "prune_depth": {}, "distill": {}, "int8_dynamic": {}}}


def test_the_parts_get_a_quarter_of_the_time_that_the_search_took(simulated):
    asked = []

    def table(request):
        asked.append(request)
        return FinalTable(())

    for leave_one_out in (True, False):
        run = simulated(str(leave_one_out), space=WITHOUT_STUDENT, search={"leave_one_out": leave_one_out})
        run.engine.run()
        run.executor._answers.update({Verify: holds, MakeTable: table})
        answer = final_answer(run.archive, run.engine.goals, run.budget, run.executor, Callback())
        spent = run.archive.spent_seconds
        assert asked[-1].parts_seconds == pytest.approx(spent / 4 if leave_one_out else 0.0) and spent > 0
        same = [trial for trial in run.archive if trial.model_key == answer.chosen.model_key]
        assert asked[-1].training_seconds == max(trial.seconds.get("recover", 0.0) for trial in same)
        assert asked[-1].instead == {} and answer.reason and answer.alternatives[0].trial == answer.chosen


def test_without_its_student_an_answer_is_the_best_of_the_search_that_has_none(simulated):
    run = simulated(space=WITHOUT_STUDENT)
    run.engine.run()
    goals = run.engine.goals
    best_known = choose(run.archive, goals).chosen
    steps = (Step.make("student", model="vit_192x4"), Step.make("distill"))
    values = {**best_known.values, "latency": Measurement(0.01), "size": Measurement(0.01)}
    pending = Trial.pending(Recipe(steps), 1.0, 0)
    student = replace(pending, status="complete", values=values)
    pool = [*run.archive, student]
    assert _instead(student, pool, goals) == {"student": best_known.recipe}
    assert _instead(student, [student], goals) == {"student": None}
    assert _instead(best_known, pool, goals) == {}


def test_a_second_answer_says_that_the_test_split_was_read(simulated):
    data = {"format": "idx", "train": "train-images", "test": "test-images"}
    run, first, _ = finished(simulated, holds, data=data)
    second = final_answer(run.archive, run.engine.goals, run.budget, run.executor, Callback())
    run.archive.append("test_read", recipe={})  # of an answer that was cut short
    assert run.archive.test_answers == 2
    assert not any("was read for earlier" in note for note in first.notes)
    assert any("was read for earlier answers (1)" in note for note in second.notes)


@pytest.mark.parametrize(
    ("data", "count", "words"),
    [
        ({"format": "idx", "train": "a", "test": "b"}, 0, ""),
        ({"format": "none"}, 1, "held-out synthesised images"),
        ({"format": "idx", "train": "a", "test": "b", "labels": False}, 1, "images without labels"),
        ({"format": "folder", "train": "a", "labels": False}, 2, "that the recipe was chosen by"),
    ],
)
def test_the_answer_says_what_was_judged_without_labels(data, count, words):
    notes = _notes_on_data(DataSpec(**data))
    assert len(notes) == count and words in " ".join(notes)


def test_a_recipe_that_breaks_a_limit_when_measured_again_makes_way_for_the_next(simulated):
    asked = []

    def verify(request):
        asked.append(request.recipe)
        return breaks(request) if len(asked) < 3 else holds(request)

    run, answer, said = finished(simulated, verify)
    assert answer.feasible and answer.chosen.recipe == asked[2] and len(run.archive.rejected) == 2
    assert sum("broke latency_ratio" in line for line in said) == 2
    assert choose(run.archive, run.engine.goals).chosen == answer.chosen


def test_where_every_trial_failed_the_answer_says_what_most_of_them_said(simulated):
    jobs = count()

    def trouble(job):
        message = "out of memory" if next(jobs) == 0 else "no such operator"
        return JobResult(job.attempt, "failed", message=message)

    run, answer, _ = finished(simulated, holds, trouble=trouble, search={"trials": 6})
    failed = len(run.archive.records)
    assert answer.chosen is None and failed > 1
    assert answer.notes == (f"every trial failed: no such operator ({failed - 1} of {failed})",)
    shown = console(stderr=False)
    with shown.capture() as captured:
        print_answer(shown, answer, run.budget, run.archive.folder, run.archive.folder / "report.html")
    assert "every trial failed: no such operator" in captured.get() and "infeasible" not in captured.get()


def test_where_every_recipe_breaks_a_limit_when_measured_again_the_answer_is_infeasible(simulated):
    run, answer, said = finished(simulated, breaks)
    assert not answer.feasible and len(run.archive.rejected) == 5
    assert answer.violated == ("measured again: latency_ratio 0.9, limit <= 0.6",)
    assert said[-1].endswith("giving up")


def test_a_trial_of_a_low_rung_is_no_answer_and_the_answer_says_so(simulated, tmp_path):
    run = simulated(search={"trials": 30, "explore_share": 1.0})
    run.engine.run()
    archive = Archive(tmp_path / "low", writable=True)
    archive.base = run.archive.base
    for trial in run.archive:
        if trial.status == "complete" and not trial.is_final:
            archive.add(trial)
    answer = choose(archive, run.engine.goals.only(lambda name: False))
    assert len(archive) and not answer.feasible
    assert answer.violated == ("trained for 25% of its epochs only, which never counts as final",)


def test_the_nearest_miss_of_gated_trials_is_the_nearest_by_what_was_measured(simulated):
    run = simulated(limits={"accuracy_drop": 0.03, "latency_ratio": 0.01}, optimize=["latency", "accuracy"])
    run.engine.run()
    assert all(trial.status == "gated" for trial in run.archive)
    answer = choose(run.archive, run.engine.goals)
    ratios = [trial.get("latency_ratio") for trial in run.archive if "latency_ratio" in trial.values]
    assert answer.chosen.get("latency_ratio") == min(ratios)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (0.9, "must return a Measurement"),
        (None, "must return a Measurement"),
        (Measurement(math.nan), "no finite number"),
        (Measurement(0.9, math.nan, math.nan), "no finite number"),
        (Measurement("much"), "ValueError"),
    ],
)
def test_what_a_plug_in_objective_returns_is_checked(found, words):
    objective = SimpleNamespace(name="mine", measure=lambda subject: found)
    with pytest.raises(TrialError, match=f"objective mine: .*{words}"):
        measure(None, [objective])


def test_numbers_of_a_plug_in_are_stored_as_plain_ones():
    objective = SimpleNamespace(name="mine", measure=lambda subject: Measurement(np.int64(3), np.float32(2), 4))
    value = measure(None, [objective])["mine"]
    assert value == Measurement(3.0, 2.0, 4.0) and all(
        type(end) is float for end in (value.value, value.low, value.high)
    )


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"macs": 5e6}, "macs <= 5e+06 M for a base of 0."),
        ({"size": 2_000_000}, "size <= 2e+06 MB"),
        ({"latency_ratio": 25}, "latency_ratio <= 25 for a base of 1; write for instance 0.5, or 50%"),
        ({"latency": 1e-9}, "latency <= 1e-09 ms"),
    ],
)
def test_limits_in_another_unit_than_the_objective_s_are_told_with_the_base_s_figure(simulated, limits, told):
    run = simulated(limits=limits)
    with pytest.raises(UserError, match="a limit lies near the base's figure") as raised:
        check_measured(run.budget, BASE)
    assert told in str(raised.value)


def test_limits_within_reach_of_the_base_pass(simulated):
    limits = {"macs": 20, "size": 0.001, "latency_ratio": 0.02, "accuracy_drop": 0.5, "latency": 50}
    check_measured(simulated(limits=limits).budget, BASE)


@pytest.mark.parametrize("limits", [{"accuracy_ratio": 1.9}, {"accuracy_drop": -2}, {"size_drop": 500}])
def test_limits_that_no_model_can_reach_are_told_once_the_base_is_known(simulated, limits):
    run = simulated(limits=limits)
    base = run.archive.base
    measured = replace(base, values={**base.values, **dict.fromkeys(limits, Measurement(1.0))})
    with pytest.raises(UserError, match="a limit must be reachable"):
        check_measured(run.budget, measured)


def test_a_run_name_is_not_lost_to_a_typo(simulated, tmp_path):
    wrong, right = simulated("one").budget, simulated("two", limits={}).budget
    archive = Archive(tmp_path / "run", writable=True)
    claim_run(archive, wrong, wrong.identity)
    claim_run(archive, right, right.identity)  # nothing was measured for the first
    archive.append("base", base=simulated("three").archive.base.to_dict())
    with pytest.raises(UserError, match="a run keeps its budget"):
        claim_run(archive, wrong, wrong.identity)
