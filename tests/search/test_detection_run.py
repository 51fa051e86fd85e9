"""A detector's budget, a real search on it in a worker process, and what the search writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

import sousvit
from sousvit.errors import UserError
from sousvit.search.budget import make_budget
from sousvit.search.judging.trial_objectives import trial_objectives

SPACE = {"techniques": {"prune_mlp": {"keep": [0.5, 1.0], "importance": ["activation"], "allocation": ["uniform"]}}}


def test_a_detectors_budget(tiny_detection):
    budget = make_budget(tiny_detection.budget(), Path())
    names = {objective.name for objective in trial_objectives(budget)}
    assert {"map50", "map", "map50_drop", "map_drop", "eer", "latency_ratio"} <= names and "accuracy" not in names
    again = make_budget(budget.model_dump(mode="json"), Path("/elsewhere"))
    assert again == budget and again.identity == budget.identity


def test_paths_of_data_may_start_elsewhere(tiny_detection):
    data = {name: value for name, value in tiny_detection.data.items() if name != "root"}
    budget = make_budget(tiny_detection.budget(data=data), Path(), data_root=tiny_detection.root / "voc")
    assert budget.data.train == make_budget(tiny_detection.budget(), Path()).data.train


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "classification"}, "a budget's task is its model's"),
        ({"limits": {"accuracy_drop": 0.01}}, "accuracy_drop is measured for classification"),
        ({"optimize": ["accuracy"]}, "accuracy is measured for classification"),
        ({"limits": {"map50": 91}}, "map50 is a share"),
        ({"limits": {"map_drop": 2}}, "map_drop is a share"),
        ({"data": {"format": "idx", "train": "a", "test": "b"}}, "one task"),
    ],
)
def test_budgets_that_mix_tasks(changes, words, tiny_detection):
    with pytest.raises(UserError, match=words):
        make_budget(tiny_detection.budget(**changes), Path())


def test_a_classifiers_budget_knows_no_map(tiny_project):
    with pytest.raises(UserError, match="map50_drop is measured for detection"):
        make_budget(tiny_project.budget(limits={"map50_drop": 0.01}), Path())
    names = {one.name for one in trial_objectives(make_budget(tiny_project.budget(), Path()))}
    assert "accuracy" in names and "map50" not in names


@pytest.fixture(scope="module")
def finished(tiny_detection, tmp_path_factory, run_sousvit):
    home = tmp_path_factory.mktemp("home")
    voc = shutil.copytree(tiny_detection.root / "voc", home / "voc")
    for part in ("train", "test"):
        names = voc / "ImageSets" / "Main" / f"{part}.txt"
        names.write_text(names.read_text() + names.read_text().splitlines()[0])
    search = {"trials": 2, "seed": 0, "leave_one_out": False, "measure_time": 0.1}
    limits, data = {"map50_drop": 0.9, "latency_ratio": 9}, {**tiny_detection.data, "root": str(voc)}
    budget = tiny_detection.budget(data=data, space=SPACE, search=search, limits=limits)
    (home / "budget.yaml").write_text(yaml.safe_dump(budget))
    result = run_sousvit("search", "--executor", "inline", "budget.yaml", "--run", "one", cwd=home)
    assert result.returncode == 0, result.stderr
    return home, result


def test_a_search_compresses_a_detector(finished):
    home, result = finished
    assert "mAP50 %" in result.stdout and "map50" in result.stderr
    answer = json.loads((home / "runs" / "one" / "answer.json").read_text())
    rows = {row["role"]: row for row in answer["rows"]}
    assert {"base", "recipe"} <= set(rows)
    for row in rows.values():
        value, low, high = row["values"]["map50"]
        assert 0 <= low <= value <= high <= 1 and "accuracy" not in row["values"]
    notes = [f"1 images listed twice in {home / 'voc' / 'ImageSets' / 'Main' / part}.txt" for part in ("train", "test")]
    assert set(notes) <= set(answer["notes"]) and all(f"note: {note}" in result.stdout for note in notes)
    page = (home / "runs" / "one" / "report.html").read_text()
    assert "mAP50" in page and "top-1" not in page


def test_its_recipe_is_applied_again(finished, tmp_path):
    home, _ = finished
    written = yaml.safe_load((home / "runs" / "one" / "recipe.yaml").read_text())
    built = sousvit.build(home / "runs" / "one" / "recipe.yaml", out=tmp_path / "out")
    assert [note.split(" in ")[0] for note in built.notes] == ["1 images listed twice"] * 2
    assert built["validation_map50"].value == pytest.approx(written["validation"]["map50"][0], abs=1e-3)
    assert built["test_map50"].value == pytest.approx(written["test"]["map50"][0], abs=1e-3)
