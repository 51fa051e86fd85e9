"""A run is gone on with as it was begun: its budget, its executor, the run that it continues."""

from __future__ import annotations

import json

import pytest
import yaml

import sousvit
from sousvit.errors import UserError
from sousvit.search.archive import Archive
from sousvit.search.stored.resumed import resumed

SPACE = {"techniques": {"prune_depth": {"drop": [1, 2]}, "prune_mlp": {"keep": [0.5]}, "int8_dynamic": {}}}
SEARCH = {"trials": 3, "seed": 0, "measure_time": 0.05}


@pytest.fixture(scope="module")
def finished(tiny_project, tmp_path_factory):
    """A finished run of three trials in this process."""
    folder = tmp_path_factory.mktemp("resumed") / "runs" / "r"
    asked = tiny_project.budget(limits={"accuracy_drop": 0.9}, space=SPACE, search=SEARCH)
    result = sousvit.Search(asked, run=folder, executor="inline").optimize()
    return folder, result


def test_a_run_remembers_its_executor_and_its_budget(finished):
    folder, result = finished
    found = resumed(folder, None, None)
    assert found.executor == "inline" and found.budget.identity == result.budget.identity
    assert found.budget.search.trials == 3 and found.earlier is None
    assert (found.parts_seconds is None) == (not result.answer.skipped)


def test_more_time_comes_on_top_of_what_the_run_took(finished):
    folder, _ = finished
    spent = Archive(folder).spent_seconds
    assert spent > 0
    assert resumed(folder, "2m", 50).budget.search.time == pytest.approx(spent + 120)
    assert resumed(folder, None, 50).budget.search.trials == 50


def test_the_run_that_a_search_continues_is_remembered_until_its_results_are_taken_over(finished, tmp_path):
    folder, _ = finished
    archive = Archive(tmp_path / "new", writable=True)
    archive.append("options", options={"executor": "ray", "earlier": str(folder)})
    archive.close()
    (tmp_path / "new" / "budget.yaml").write_text((folder / "budget.yaml").read_text())
    found = resumed(tmp_path / "new", None, None)
    assert found.earlier == folder and found.executor == "ray"
    assert resumed(folder, None, None).earlier is None


def test_a_finished_run_goes_on_with_more_trials(finished, run_sousvit):
    folder, _ = finished
    told = run_sousvit("resume", "r", "--trials", "4", "--json", "--progress", "json", cwd=folder.parents[1])
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["cost"]["trials"] == 4 == Archive(folder).own
    lines = [json.loads(line) for line in told.stderr.splitlines() if line.startswith("{")]
    trials = [line for line in lines if line["event"] == "trial"]
    assert [trial["number"] for trial in trials] == [4]
    stages = [line["stage"] for line in lines if line["event"] == "stage"]
    assert stages[0] == "choosing" and stages[-1] == "writing" and "timing" in stages
    assert lines[-1]["event"] == "answer"
    again = run_sousvit("resume", "r", cwd=folder.parents[1])
    assert again.returncode == 0 and Archive(folder).own == 4 and again.stdout.startswith("recipe   ")


def test_the_missing_rows_of_a_real_answer_are_made(tiny_project, tmp_path):
    search = {**SEARCH, "trials": 2, "without": ["starters"]}
    asked = tiny_project.budget(limits={"accuracy_drop": 0.9}, space=SPACE, search=search)
    folder = tmp_path / "rows"
    first = sousvit.Search(asked, run=folder, executor="inline").optimize()
    plain = json.loads((folder / "answer.json").read_text())
    left = [row.role for row in first.answer.rows if row.role.startswith("without")]
    assert left and not plain["skipped"]
    _forget_rows(folder, left)
    found = sousvit.resume(folder, time="90s")
    assert {row.role for row in found.answer.rows} == {row.role for row in first.answer.rows}
    assert found.recipe == first.recipe and not found.answer.skipped
    assert Archive(folder).own == 2 and yaml.safe_load((folder / "budget.yaml").read_text())["search"]["time"] is None


def _forget_rows(folder, roles):
    """As an answer is stored whose time was over."""
    from contextlib import closing
    from dataclasses import replace

    from sousvit.search.stored.answer_file import read_answer, write_answer
    from sousvit.search.stored.opened import read_run_budget

    stored, (budget, _) = read_answer(folder), read_run_budget(folder)
    assert stored is not None
    kept = tuple(row for row in stored.answer.rows if row.role not in roles)
    with closing(Archive(folder)) as archive:
        write_answer(replace(stored.answer, rows=kept, skipped=tuple(roles)), budget, archive)


def test_what_cannot_be_resumed_is_one_line(finished, tmp_path):
    folder, _ = finished
    with pytest.raises(UserError, match="a run must exist"):
        resumed(tmp_path / "none", None, None)
    with pytest.raises(UserError, match="a duration is a number"):
        resumed(folder, "soon", None)
    archive = Archive(tmp_path / "survey", writable=True)
    archive.append("run", identity="study 1234", started="now")
    archive.close()
    (tmp_path / "survey" / "budget.yaml").write_text((folder / "budget.yaml").read_text())
    with pytest.raises(UserError, match="a search can be resumed; received survey, a survey"):
        resumed(tmp_path / "survey", None, None)
