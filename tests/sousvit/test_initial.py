"""A first budget is one that the search takes, for paths of any name."""

from __future__ import annotations

import shutil

import pytest
import yaml

import sousvit
from sousvit.errors import UserError
from sousvit.search.budget import Budget


def test_a_first_budget_is_read_as_it_is_written(tiny_project, tmp_path):
    path = sousvit.init(
        tiny_project.root / "base.safetensors",
        tiny_project.root / "data" / "train-images.idx.gz",
        out=tmp_path / "budget.yaml",
    )
    text, budget = path.read_text(), Budget.read(path)
    assert budget.model.name == "vit_tiny_patch16_224" and budget.data.format == "idx"
    assert budget.limits == {"accuracy_drop": 0.01, "latency_ratio": 0.5}
    assert "16 x 16 px, grey, 3 classes" in text and "# expected_accuracy" in text and "# test: PATH" in text
    assert all(len(line) < 200 for line in text.splitlines())


@pytest.mark.parametrize("name", ["a b", "näive-模型", "x: y #1", "it's", '"quoted"', "-dash", "{brace}"])
def test_paths_of_any_name_are_read_back(tiny_project, tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    for file in ("base.safetensors", "data/train-images.idx.gz", "data/train-labels.idx.gz"):
        shutil.copy(tiny_project.root / file, folder)
    path = sousvit.init(folder / "base.safetensors", folder / "train-images.idx.gz", out=folder / "budget.yaml")
    written = yaml.safe_load(path.read_text())
    assert written["model"]["checkpoint"] == "base.safetensors" and written["data"]["train"] == "train-images.idx.gz"
    assert Budget.read(path).model.checkpoint == str(folder / "base.safetensors")
    folder = folder.rename(tmp_path / "moved")
    assert Budget.read(folder / "budget.yaml").data.train == str(folder / "train-images.idx.gz")


def test_parts_below_one_root_are_found(tiny_project, tmp_path):
    root = tmp_path / "pets"
    for part in ("train", "test"):
        for number in range(3):
            place = root / part / "abc"[number]
            place.mkdir(parents=True)
            (place / f"{part}{number}.png").write_bytes(part.encode() * (number + 1))
    path = sousvit.init(tiny_project.root / "base.safetensors", root, out=tmp_path / "b.yaml")
    budget = Budget.read(path)
    assert budget.data.train == str(root / "train") and budget.data.test == str(root / "test")
    assert "# test: PATH" not in path.read_text()


def test_what_is_there_is_not_overwritten_and_wrong_parts_are_one_line(tiny_project, tmp_path):
    images, base = tiny_project.root / "data" / "train-images.idx.gz", tiny_project.root / "base.safetensors"
    (tmp_path / "budget.yaml").write_text("mine")
    with pytest.raises(UserError, match="init writes a new file"):
        sousvit.init(base, images, out=tmp_path / "budget.yaml")
    assert (tmp_path / "budget.yaml").read_text() == "mine"
    for model, data, target in (
        ("gone.safetensors", images, "local-1-thread"),
        (base, "gone", "local-1-thread"),
        (base, images, "moon"),
    ):
        with pytest.raises(UserError) as raised:
            sousvit.init(model, data, target=target, out=tmp_path / "other.yaml")
        assert "\n" not in str(raised.value) and not (tmp_path / "other.yaml").exists()
