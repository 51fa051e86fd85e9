"""A run folder that an earlier version wrote: it opens, reports and answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from sousvit.errors import UserError
from sousvit.runs import open_run as open_run_of_a_user
from sousvit.search.archive import Archive
from sousvit.search.budget import open_space
from sousvit.search.callbacks import Callback
from sousvit.search.executors.executor import JobResult
from sousvit.search.executors.simulated import SimulatedClock, SimulatedExecutor
from sousvit.search.report.page.write import write_report
from sousvit.search.results import Answer
from sousvit.search.reuse import answer_other_budget
from sousvit.search.run import make_engine
from sousvit.search.stored.opened import open_run
from sousvit.spaces.shape import read_shape

STORED = Path(__file__).with_name("stored_run")
EXAMPLE = Path(__file__).parents[2] / "examples" / "fashion-mnist"


@pytest.fixture
def run(tmp_path) -> Path:
    run = tmp_path / "stored"
    shutil.copytree(STORED, run)
    budget = yaml.safe_load((run / "budget.yaml").read_text())
    budget["model"]["checkpoint"] = str(EXAMPLE / budget["model"]["checkpoint"])
    (run / "budget.yaml").write_text(yaml.safe_dump(budget))
    return run


def test_it_opens_with_its_trials_and_figures(run):
    budget, archive = open_run(run)
    assert [trial.status for trial in archive] == ["gated", "gated", "complete", "complete", "gated", "gated"]
    assert archive.base.values["accuracy"].value == 0.9155
    assert archive.test_answers == 1
    assert archive.header["identity"] == "75b5ef4412df0a92"
    assert [limit.name for limit in budget.hard_limits] == ["accuracy_drop", "latency_ratio", "size"]


def test_its_answer_is_read(run):
    answer = Answer.from_dict(json.loads((run / "answer.json").read_text()))
    assert answer.feasible and answer.chosen.key == "4be446e458c3357d"
    assert [row.role for row in answer.rows][:2] == ["base", "recipe"]


def test_it_answers_another_budget(run, tmp_path):
    budget = tmp_path / "other.yaml"
    budget.write_text(yaml.safe_dump({"limits": {"accuracy_drop": 0.05}, "optimize": ["latency"]}))
    answer, _ = answer_other_budget(run, budget)
    assert answer.feasible and answer.chosen.recipe["runtime"] == "onnxruntime"


def test_it_is_reported(run):
    assert "prune_depth" in write_report(run, None).read_text()


def test_it_is_taken_up_again_and_its_old_study_stays_as_it_was(run):
    budget, known = open_run(run)
    more = budget.model_copy(update={"search": budget.search.model_copy(update={"trials": 24})})
    values = next(trial.values for trial in known if trial.status == "complete")
    shape, study = read_shape(known.base.shape), (run / "study.db").read_bytes()
    archive, clock = Archive(run, writable=True), SimulatedClock()
    executor = SimulatedExecutor(known.base, lambda job: JobResult(job.attempt, "complete", values), clock)
    space, _ = open_space(more, shape)
    engine = make_engine(more, archive, executor, known.base, shape, space, Callback(), clock)
    told = {trial.number for trial in known if trial.number is not None}
    finished = [trial.number for trial in engine._proposals.proposer.sampler.study.trials if trial.state.is_finished()]
    # One of them was trained by epochs, for which the space no longer asks.
    assert len(finished) == 2 < len(told) == 3 and engine._proposals.is_new
    engine.run()
    archive.close()
    assert len(archive) == 24 and list(archive.trials)[: len(known)] == list(known.trials)
    assert min(trial.number for trial in archive.records[len(known) :] if trial.number is not None) > max(told)
    assert (run / "study.db").read_bytes() == study and (run / "study.journal").stat().st_size > 0


def test_another_preference_needs_no_new_search(run):
    asked = open_run_of_a_user(run)
    small, fast = asked.answer(prefer="size"), asked.answer(prefer={"latency": 1})
    assert set(small.alternatives.index) and small.alternatives.index[0].startswith("answer")
    assert small.answer.chosen.get("size") <= fast.answer.chosen.get("size")
    assert fast.answer.chosen.get("latency") <= small.answer.chosen.get("latency")
    assert small.reason and small.reason in str(small)
    with pytest.raises(UserError, match="prefer names what is optimised; received macs"):
        asked.answer(prefer="macs")
    with pytest.raises(UserError, match="a budget holds all its parts; received prefer beside it"):
        asked.answer({"optimize": ["size"]}, prefer="size")
    page = write_report(run, None).read_text()
    assert "Why this one" not in page, "the stored answer is of an earlier version"
    (run / "answer.json").write_text(json.dumps(small.answer.to_dict()))
    page = write_report(run, None).read_text()
    assert "Why this one" in page


def test_the_command_takes_a_preference_instead_of_a_budget(run, run_sousvit):
    def ask(*options):
        return run_sousvit("recipe", run.name, *options, "--runs", str(run.parent), "--json", cwd=run.parent)

    found = ask("--prefer", "size=2", "--prefer", "latency")
    assert found.returncode in (0, 3), found.stderr
    assert json.loads(found.stdout)["reason"]
    assert "a run is asked with another budget or preference; received neither" in ask().stderr
    assert "a weight is a number; received 'much'" in ask("--prefer", "size=much").stderr
