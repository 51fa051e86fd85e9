"""A check does what a search does before its first trial, and leaves nothing but a sheet of images."""

from __future__ import annotations

import io

import pytest
from PIL import Image

import sousvit
from sousvit.errors import UserError
from sousvit.search.report.terminal import console, print_checked


@pytest.fixture(scope="module")
def checked(tiny_project, tmp_path_factory):
    """A check of the tiny project, and its folder."""
    folder = tmp_path_factory.mktemp("check")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sousvit.search.judging.subjects.available_cores", lambda: 1)
        patch.chdir(folder)
        values = tiny_project.budget(search={"measure_time": 0.05})
        yield sousvit.check(values), folder, sousvit.Budget(**values)


def test_a_check_tells_what_a_search_would_begin_with(checked):
    found, folder, _ = checked
    assert found.base["accuracy"].value > 0.8 and found.base["latency"].value > 0
    assert found.images["train"] + found.images["validation"] <= 700 and found.images["test"] == 200
    assert found.combinations > 1 and found.trial_seconds > 0 and found.memory_mb > 100
    assert found.preprocess["size"] == (16, 16) and found.preprocess["resize"] == "short"
    assert found.epoch_seconds is None or 0 < found.epoch_seconds < 600
    assert [entry.name for entry in folder.iterdir()] == ["check.png"]
    assert Image.open(folder / "check.png").size[0] > 100
    assert found.to_dict()["base"]["accuracy"][0] == found.base["accuracy"].value


def test_a_check_is_read_in_a_terminal(checked):
    found, _, budget = checked
    out = console()
    out.file, out.width = io.StringIO(), 80
    print_checked(out, found, budget)
    said = out.file.getvalue()
    assert all(word in said for word in ("base", "images", "preprocess", "space", "a trial", "check.png", " ms"))


def test_what_would_stop_a_search_stops_a_check(tiny_project, tmp_path):
    values = tiny_project.budget(search={"measure_time": 0.05})
    values["model"] = {**values["model"], "expected_accuracy": 0.05}
    with pytest.raises(UserError, match="expected_accuracy"):
        sousvit.check(values, sheet=tmp_path / "check.png")
    assert not list(tmp_path.iterdir())


def test_a_students_checkpoint_that_is_not_there_stops_a_search_before_its_first_trial(tiny_project, tmp_path):
    student = {"model": ["none", "residual"], "checkpoint": [None, str(tmp_path / "gone.pth")]}
    values = tiny_project.budget(space={"techniques": {"student": student, "distill": {}}})
    with pytest.raises(UserError, match=r"a checkpoint must exist; received .*gone\.pth"):
        sousvit.check(values, sheet=tmp_path / "check.png")
