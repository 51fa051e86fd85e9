"""A compressed model's weights rebuild it in another process, whatever shape its recipe gave it."""

from __future__ import annotations

import json

import pytest
import torch

import sousvit
from sousvit.errors import UserError
from sousvit.spaces.weights import STRUCTURE, WEIGHTS, load_weights, save_weights

STEP = sousvit.Step.make
RECIPES = {
    "the base": [],
    "widths chosen from data": [STEP("prune_mlp", keep=0.5, allocation="global")],
    "ranks chosen from data": [STEP("low_rank", keep=0.5, allocation="sensitivity", layers="all")],
    "tokens and heads": [STEP("prune_depth", drop=1), STEP("prune_heads", keep=0.5), STEP("tome", keep=0.7)],
    "a part of an elastic base": [STEP("elastic", epochs=1, num_views=1), STEP("prune_mlp", keep=0.5)],
    "a student": [STEP("student", model="vit_64x4"), STEP("distill", epochs=1, num_views=1)],
}


@pytest.fixture(scope="module")
def shop(tiny_project):
    from sousvit.models.load import load
    from sousvit.search.judging.build import Workshop

    return Workshop(load(tiny_project.model_spec()), tiny_project.data_spec(), threads=1)


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_loaded_gives_the_same_outputs(name, shop, tmp_path):
    recipe = sousvit.Recipe(RECIPES[name])
    decisions: dict = {}
    model = shop.builder.build(recipe, decisions=decisions)
    assert save_weights(tmp_path / WEIGHTS, model, shop.base, recipe, decisions)
    loaded = sousvit.load_model(tmp_path)
    images = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), model(images))
    loaded.train()(images).sum().backward()


def test_damaged_and_foreign_files_are_one_line(shop, tmp_path):
    recipe = sousvit.Recipe([STEP("prune_mlp", keep=0.5)])
    folder = tmp_path / WEIGHTS
    save_weights(folder, shop.model(recipe), shop.base, recipe, {})
    whole = (folder / STRUCTURE).read_text()
    for text in ("", "[]", "{}", "[" * 100_000, whole.replace('"decisions": {}', '"decisions": 3')):
        (folder / STRUCTURE).write_text(text)
        with pytest.raises(UserError, match="as they were written"):
            load_weights(folder)
    plain = json.loads(whole)
    for change in ({"pretrained": True}, {"checkpoint": "/x.pth"}, {"args": {"pretrained_cfg": {"file": "/x.pth"}}}):
        (folder / STRUCTURE).write_text(json.dumps({**plain, "model": {**plain["model"], **change}}))
        with pytest.raises(UserError, match=r"model holds|weights come from checkpoint"):
            load_weights(folder)
    (folder / STRUCTURE).write_text(whole)
    (folder / "model.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(UserError, match="safetensors"):
        load_weights(folder)
