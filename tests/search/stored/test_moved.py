"""A run that was moved or copied with its project answers, resumes and is applied where it lies now."""

from __future__ import annotations

import json
import shutil
from pathlib import Path, PurePath

import pytest
import yaml

import sousvit
from sousvit.search.archive import Archive
from sousvit.search.stored.moved import relocated, roots

SPACE = {"techniques": {"prune_mlp": {"keep": [0.5]}}}


@pytest.mark.parametrize(
    ("before", "now", "wanted"),
    [
        ("/a/b/runs/x", "/c/runs/x", ("/a/b", "/c")),
        ("/a/runs/x", "/c/copy", ("/a/runs/x", "/c/copy")),
        ("/runs/x", "/c/runs/x", ("/", "/c")),
    ],
)
def test_what_is_alike_at_the_end_is_left_out(before, now, wanted):
    assert roots(PurePath(before), PurePath(now)) == tuple(map(PurePath, wanted))


def test_paths_that_moved_along_are_found_and_others_stay(tmp_path):
    run = tmp_path / "now" / "runs" / "a"
    run.mkdir(parents=True)
    archive = Archive(run, writable=True)
    old = tmp_path / "before"
    archive.append("run", identity="x", folder=str(old / "runs" / "a"))
    archive.close()
    for name in ("data/test.png", "mine.py"):
        (tmp_path / "now" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "now" / name).write_text("")
    (tmp_path / "there.bin").write_text("")
    values = {
        "model": {"checkpoint": str(tmp_path / "there.bin"), "name": "vit"},
        "data": {"test": [f"{old}/data/*.png", f"{old}/gone"], "root": "/elsewhere"},
        "plugins": {"objectives": [f"{old}/mine.py:Mine"]},
        "limits": {"size": f"{old}/data"},
    }
    found = relocated(values, run)
    assert found["data"] == {"test": [f"{tmp_path}/now/data/*.png", f"{old}/gone"], "root": "/elsewhere"}
    assert found["plugins"] == {"objectives": [f"{tmp_path}/now/mine.py:Mine"]}
    assert found["model"] == values["model"] and found["limits"] == values["limits"]
    assert relocated(values, tmp_path) == values


@pytest.fixture(scope="module")
def moved(tiny_project, tmp_path_factory) -> Path:
    """A project with a finished run, moved as a whole; nothing is left at its former place."""
    before = tmp_path_factory.mktemp("project") / "before"
    shutil.copytree(tiny_project.root, before)
    data = {"format": "idx", "train": "data/train-images.idx.gz", "test": "data/test-images.idx.gz",
            "validation": {"last": 100}, "calibration": 64}  # fmt: skip
    search = {"trials": 1, "seed": 0, "explore_fidelity": 1.0, "measure_time": 0.05, "leave_one_out": False}
    budget = tiny_project.budget(model={"from": "base.safetensors"}, data=data, space=SPACE, search=search)
    (before / "budget.yaml").write_text(yaml.safe_dump(budget))
    asked = sousvit.Budget.read(before / "budget.yaml")
    sousvit.Search(asked, run=before / "runs" / "a", executor="inline").optimize()
    return before.rename(before.with_name("after"))


def test_a_moved_run_answers_and_its_model_comes_back(moved):
    run = sousvit.open_run(moved / "runs" / "a")
    assert run.budget.model.checkpoint == str(moved / "base.safetensors") and run.changed == []
    result = run.answer(optimize=["size"])
    assert result.recipe is not None and result.model.blocks[0].mlp.fc1.out_features == 64
    assert run.result.bundle(moved / "dist").is_dir()


def test_a_moved_run_goes_on_with_its_budget(moved):
    more = sousvit.Budget.read(moved / "budget.yaml", trials=1)
    again = sousvit.Search(more, run=moved / "runs" / "a", executor="inline").optimize()
    assert again.status == "holds" and len(again.trials) == 1


def test_a_recipe_says_where_and_of_what_content_it_was_measured(moved):
    recipe = yaml.safe_load((moved / "runs" / "a" / "recipe.yaml").read_text())
    assert {"model.checkpoint", "data.train", "data.test"} <= set(recipe["inputs"])
    assert recipe["machine"]["flags"] == sousvit.machine_facts()["flags"] and "torch" in recipe["machine"]["versions"]
    bundled = (moved / "runs" / "a" / "bundle" / "recipe.yaml").read_text()
    assert str(moved.parent) not in bundled and "checkpoint: base.safetensors" in bundled


def test_apply_compares_with_the_recorded_figures_and_sets_the_exit_code(moved, run_sousvit, tmp_path):
    recipe = moved / "runs" / "a" / "recipe.yaml"
    done = run_sousvit("apply", recipe, "--out", "one", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "test_top1" in done.stdout and done.stdout.count(": agrees") == 3 and "disagrees" not in done.stdout
    values = yaml.safe_load(recipe.read_text())
    values["test"]["accuracy"] = [0.2, 0.1, 0.3]
    values["validation"]["size"] = values["validation"]["size"] * 1.5
    values["test"]["size"] = values["validation"]["size"]
    (moved / "other.yaml").write_text(yaml.safe_dump(values))
    told = run_sousvit("apply", moved / "other.yaml", "--out", "two", "--model", moved / "base.safetensors", "--data",
                       moved / "budget.yaml", "--json", cwd=tmp_path)  # fmt: skip
    assert told.returncode == 3, told.stderr
    found = json.loads(told.stdout)
    compared = {one["name"]: one for one in found["compared"]}
    assert not compared["test_top1"]["agrees"] and not compared["size_mb"]["agrees"] and found["agrees"] is False
    assert compared["validation_top1"]["agrees"] and compared["test_top1"]["low"] == 0.1
    assert sousvit.load_model(tmp_path / "two").blocks[0].mlp.fc1.out_features == 64


def test_apply_compares_nothing_made_of_other_data(moved, run_sousvit, tmp_path):
    data = {"format": "idx", "train": str(moved / "data" / "test-images.idx.gz"), "validation": 20, "calibration": 32}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"data": data}))
    recipe = moved / "runs" / "a" / "recipe.yaml"
    done = run_sousvit("apply", recipe, "--data", "data.yaml", "--out", "three", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["compared"] == [] and found["agrees"] is None
    assert "not compared with the recorded figures: other content of data.train" in found["notes"]
