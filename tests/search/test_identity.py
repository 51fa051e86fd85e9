"""Answers are of the weights, images and plug-ins that were measured: what changed since is never passed over."""

from __future__ import annotations

import os
import shutil
from types import SimpleNamespace

import pytest

from sousvit.errors import UserError
from sousvit.search.identity import (
    INPUTS_FILE,
    changed_beside,
    changed_inputs,
    note_inputs,
    require_same_inputs,
    told_of_changes,
)
from sousvit.specs import DataSpec, ModelSpec


@pytest.fixture
def budget(tmp_path):
    """Made of files: weights, a folder of images, a test file and a plug-in."""
    for name, text in (("w.safetensors", "weights"), ("test.parquet", "test"), ("mine.py", "class Mine: ...")):
        (tmp_path / name).write_text(text)
    for name in ("cat/1.png", "dog/1.png"):
        (tmp_path / "train" / name).parent.mkdir(parents=True)
        (tmp_path / "train" / name).write_text(name)
    data = DataSpec(format="folder", train=str(tmp_path / "train"), test=str(tmp_path / "test.parquet"))
    plugins = {"objectives": (f"{tmp_path}/mine.py:Mine", f"{__name__}:Other"), "techniques": ()}
    model = ModelSpec(name="m", checkpoint=str(tmp_path / "w.safetensors"))
    (tmp_path / "run").mkdir()
    return SimpleNamespace(model=model, data=data, plugins=plugins, space="default")


CHANGES = {
    "w.safetensors": "model.checkpoint",
    "train/cat/1.png": "data.train",
    "train/bird.png": "data.train",
    "test.parquet": "data.test",
    "mine.py": "plugins.objectives 0",
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_input_that_changes_is_named(budget, tmp_path, name):
    run = tmp_path / "run"
    note_inputs(budget, run)
    assert changed_inputs(budget, run) == []
    require_same_inputs(budget, run)
    (tmp_path / name).write_text("other")
    (changed,) = changed_inputs(budget, run)
    assert changed.startswith(f"{CHANGES[name]}: ")
    note_inputs(budget, run)  # noted once: what was measured stays what it was
    with pytest.raises(UserError, match=r"keeps the model, data and plug-ins.*use another --run name"):
        require_same_inputs(budget, run)


def test_the_same_size_and_an_older_time_are_no_disguise(budget, tmp_path):
    run, image = tmp_path / "run", tmp_path / "train" / "cat" / "1.png"
    note_inputs(budget, run)
    image.write_text("dog/1.png")
    os.utime(image, (1, 1))
    assert len(changed_inputs(budget, run)) == 1


def test_files_that_were_only_touched_or_copied_are_the_same(budget, tmp_path):
    note_inputs(budget, tmp_path / "run")
    os.utime(tmp_path / "train" / "cat" / "1.png", (1, 1))
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "train", copy)
    shutil.rmtree(tmp_path / "train")
    copy.rename(tmp_path / "train")
    assert changed_inputs(budget, tmp_path / "run") == []


def test_a_run_on_another_machine_and_one_of_an_earlier_version_open(budget, tmp_path):
    assert changed_inputs(budget, tmp_path / "run") == []  # nothing was noted
    note_inputs(budget, tmp_path / "run")
    (tmp_path / "w.safetensors").unlink()
    shutil.rmtree(tmp_path / "train")
    assert changed_inputs(budget, tmp_path / "run") == []
    assert "data.train" in (tmp_path / "run" / INPUTS_FILE).read_text()


def test_every_file_of_a_glob_and_of_a_list_is_compared(budget, tmp_path):
    for name in ("a-0.parquet", "a-1.parquet", "b.parquet"):
        (tmp_path / name).write_text(name)
    paths = (str(tmp_path / "a-*.parquet"), str(tmp_path / "b.parquet"))
    budget.data = DataSpec(format="parquet", train=paths, test=str(tmp_path / "test.parquet"))
    note_inputs(budget, tmp_path / "run")
    (tmp_path / "a-1.parquet").write_text("other")
    assert changed_inputs(budget, tmp_path / "run") == [f"data.train: {tmp_path / 'a-0.parquet'}"]
    (tmp_path / "a-1.parquet").write_text("a-1.parquet")
    assert changed_inputs(budget, tmp_path / "run") == []
    (tmp_path / "a-2.parquet").write_text("more")
    assert len(changed_inputs(budget, tmp_path / "run")) == 1


def test_what_systems_leave_in_a_folder_ends_no_run(budget, tmp_path):
    note_inputs(budget, tmp_path / "run")
    for name in (".DS_Store", "cat/Thumbs.db", ".git/index", "@eaDir/1.png"):
        (tmp_path / "train" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "train" / name).write_text("by itself")
    assert changed_inputs(budget, tmp_path / "run") == []


def test_files_that_belong_to_an_input_are_compared_with_it(budget, tmp_path):
    for name in ("t-images.idx", "t-labels.idx", "w.json"):
        (tmp_path / name).write_text(name)
    budget.data = DataSpec(format="idx", train=str(tmp_path / "t-images.idx"))
    note_inputs(budget, tmp_path / "run")
    (tmp_path / "t-labels.idx").write_text("other")
    (tmp_path / "w.json").write_text("other")
    roles = [line.partition(":")[0] for line in changed_inputs(budget, tmp_path / "run")]
    assert roles == ["model.checkpoint", "data.train"]


def test_linked_folders_are_compared_and_circles_end(budget, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "2.png").write_text("bird")
    (tmp_path / "train" / "bird").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path / "train")
    note_inputs(budget, tmp_path / "run")
    (tmp_path / "elsewhere" / "2.png").write_text("wasp")
    assert changed_inputs(budget, tmp_path / "run") == [f"data.train: {tmp_path / 'train'}"]


def test_a_recipe_file_in_a_run_knows_what_the_run_was_made_of(budget, tmp_path):
    run = tmp_path / "run"
    note_inputs(budget, run)
    assert changed_beside(run / "recipe.yaml") == changed_beside(tmp_path / "recipe.yaml") == []
    (tmp_path / "w.safetensors").write_text("other weights")
    assert changed_beside(str(run / "recipe.yaml")) == [f"model.checkpoint: {tmp_path / 'w.safetensors'}"]
    assert "the run's figures are of what was there" in told_of_changes(changed_beside(run / "recipe.yaml"))[0]
    assert changed_beside(object()) == [] and told_of_changes([]) == ()
