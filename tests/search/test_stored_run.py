"""A run folder that an earlier version wrote: it opens, reports and answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from sousvit.search.archive import open_run
from sousvit.search.report.html import write_report
from sousvit.search.results import Answer
from sousvit.search.reuse import answer_other_budget

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
