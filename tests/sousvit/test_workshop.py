"""A base with its images, where recipes are built, exported and judged one by one."""

from __future__ import annotations

import copy

import pytest
import torch

import sousvit
from sousvit.techniques import Distill, Int8Dynamic, PruneMlp, Synthesize

PRUNED = sousvit.Recipe([PruneMlp(keep=0.5, importance="magnitude")])


@pytest.fixture(scope="module")
def workshop(tiny_project, tmp_path_factory):
    files = {name: str(tiny_project.root / "data" / f"{name}-images.idx.gz") for name in ("train", "test")}
    data = {"format": "idx", **files, "validation": 80, "limit_train": 200}
    return sousvit.Workshop(tiny_project.model_spec(), train=data, cache=tmp_path_factory.mktemp("kept"), threads=1)


def test_a_recipe_its_artifact_and_its_module_are_judged_on_the_same_images(workshop, tmp_path):
    module = workshop.model(PRUNED)
    artifact = workshop.export(tmp_path / "pruned", PRUNED)
    found = [workshop.evaluate(one, "test").merit() for one in (PRUNED, artifact, module)]
    assert found[0] == found[1] and found[2][0] == pytest.approx(found[0][0], abs=0.02)
    assert PRUNED.reshape(workshop.shape).params() < workshop.shape.params()


def test_the_drop_is_paired_with_the_base(workshop):
    base = workshop.evaluate(sousvit.Recipe())
    assert base.merit_drop(base)[0] == 0 and workshop.evaluate(workshop.base).merit()[0] == pytest.approx(
        base.merit()[0]
    )


def test_a_module_of_ones_own_is_exported_and_quantized(workshop, tmp_path):
    other = copy.deepcopy(workshop.base)
    torch.nn.init.zeros_(other.head.weight)
    int8 = sousvit.Recipe([Int8Dynamic()])
    artifact = workshop.export(tmp_path / "other", int8, model=other)
    assert artifact.size_bytes < workshop.export(tmp_path / "base").size_bytes
    assert workshop.evaluate(artifact).merit()[0] < workshop.evaluate(int8).merit()[0]


def test_images_come_as_the_model_takes_them(workshop):
    images, labels = workshop.images("validation", 10)
    assert images.dtype == torch.float32 and len(images) == len(labels) == 10
    assert len(workshop.images("train")[1]) == 200
    with pytest.raises(sousvit.UserError, match="part of the data"):
        workshop.images("tset")


def test_what_was_trained_once_is_kept(workshop, monkeypatch):
    recipe = sousvit.Recipe([*PRUNED.steps, Distill(epochs=1, num_views=1)])
    first = workshop.model(recipe)
    monkeypatch.setattr("sousvit.spaces.training.loop.fit", None)
    again = workshop.model(recipe)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_without_images_a_recipe_brings_its_own(tiny_project):
    data = {"format": "idx", "train": "none", "test": str(tiny_project.root / "data" / "test-images.idx.gz")}
    few = {"validation": 16, "synthesis": {"images": 16}}
    workshop = sousvit.Workshop(tiny_project.model_spec(), train={**data, **few}, threads=1)
    recipe = sousvit.Recipe([Synthesize(images=32), PruneMlp(keep=0.5)])
    assert 0 <= workshop.evaluate(recipe, "test", limit=20).merit()[0] <= 1
