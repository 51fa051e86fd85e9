"""Stored teacher logits and recovered models: computed once, read back the same, rebuilt when damaged."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from sousvit.cache import TensorCache
from sousvit.data import Splits
from sousvit.data.augment import View
from sousvit.errors import TrialError
from sousvit.models.load import load
from sousvit.spaces import builder as builder_module
from sousvit.spaces.builder import ModelBuilder, apply_steps, skeleton
from sousvit.spaces.context import Context
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.training.loop import predict
from sousvit.spaces.training.teacher import Teacher

RECIPE = Recipe((Step.make("prune_depth", drop=1), Step.make("prune_mlp", keep=0.5), Step.make("distill", epochs=2)))


@pytest.fixture(scope="module")
def world(tiny_project):
    base = load(tiny_project.model_spec())
    splits = Splits(tiny_project.data_spec(), base.size, base.channels)
    return base, splits


@pytest.fixture
def context(world):
    base, splits = world
    teacher = Teacher(base, splits.train)
    return Context(base.normalise, splits.calibration(), splits.train, teacher)


def same(one, two) -> bool:
    first, second = one.state_dict(), two.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_teacher_logits_are_the_models_own_on_the_drawn_view(world, tmp_path):
    base, splits = world
    logits = Teacher(base, splits.train, TensorCache(tmp_path))("crop_flip", 3, 1)
    view = View.draw("crop_flip", len(splits.train), splits.train.size, 3, 1)
    expected = predict(base.module, splits.train, base.normalise, view=view)
    assert torch.allclose(logits, expected, atol=0.02)  # stored as fp16
    assert not torch.allclose(logits, Teacher(base, splits.train)("crop_flip", 3, 2), atol=0.02)


def test_teacher_runs_once_per_view_and_damaged_files_are_rebuilt(world, tmp_path):
    base, splits = world
    calls = []

    class Counted:
        name = "counted"

        def __call__(self, images):
            calls.append(len(images))
            return base.module(images).detach()

    forward = Counted()
    first = Teacher(base, splits.train, TensorCache(tmp_path), forward=forward)("none", 0, 0)
    paid = sum(calls)
    assert paid == len(splits.train)
    again = Teacher(base, splits.train, TensorCache(tmp_path), forward=forward)
    assert torch.allclose(again("none", 0, 0), first, atol=0.02) and sum(calls) == paid
    [stored] = tmp_path.rglob("*.safetensors")
    stored.write_bytes(stored.read_bytes()[:100])
    rebuilt = Teacher(base, splits.train, TensorCache(tmp_path), forward=forward)
    assert torch.allclose(rebuilt("none", 0, 0), first, atol=0.02)
    assert sum(calls) == 2 * paid


def test_recovered_models_are_stored_and_read_back(world, context, tmp_path, monkeypatch):
    base, _ = world
    builder = ModelBuilder(base, context, TensorCache(tmp_path))
    model = builder.build(RECIPE)
    monkeypatch.setattr(builder_module, "_apply", _only_skeletons)
    assert same(builder.build(replace(RECIPE, steps=(*RECIPE.steps, Step.make("int8_dynamic")))), model)
    with pytest.raises(AssertionError, match="worked again"):
        builder.build(RECIPE.without("prune_mlp"))


def _only_skeletons(model, step, place, context, apply=builder_module._apply):
    assert context.calibration is None, "worked again"
    return apply(model, step, place, context)


@pytest.mark.parametrize("importance", ["taylor", "gates"])
def test_recipes_that_begin_alike_share_their_beginning(importance, world, context, tmp_path, monkeypatch):
    base, _ = world
    monkeypatch.setattr(builder_module, "WORTH_KEEPING", 0.0)
    pruned = (
        Step.make("prune_mlp", keep=0.5, importance=importance, allocation="global"),
        Step.make("low_rank", keep=0.5, allocation="sensitivity"),
    )
    recipe = Recipe((*pruned, Step.make("distill", epochs=1)))
    seconds: dict[str, float] = {}
    cached = ModelBuilder(base, context, TensorCache(tmp_path))
    cached.build(Recipe(pruned))
    model = cached.build(recipe, seconds=seconds)
    assert "build" not in seconds and "recover" in seconds
    assert same(model, ModelBuilder(base, context).build(recipe))
    assert same(cached.build(recipe), model)


def test_a_stored_model_of_another_shape_is_built_again(world, context, tmp_path):
    base, _ = world
    cache = TensorCache(tmp_path)
    builder = ModelBuilder(base, context, cache)
    model = builder.build(RECIPE)
    [stored] = (tmp_path / "models").rglob("*.safetensors")
    cache.write(f"models/{stored.stem}", {"foreign": torch.zeros(3)}, {"decisions": {}})
    assert same(builder.build(RECIPE), model)


def test_a_damaged_stored_model_is_built_again(world, context, tmp_path, monkeypatch):
    base, _ = world
    monkeypatch.setattr(builder_module, "WORTH_KEEPING", math.inf)  # on a busy machine any step may take long
    builder = ModelBuilder(base, context, TensorCache(tmp_path))
    model = builder.build(RECIPE)
    [stored] = (tmp_path / "models").rglob("*.safetensors")
    stored.write_bytes(b"not a model")
    assert same(builder.build(RECIPE), model)


def test_fidelity_seed_and_steps_have_models_of_their_own(world, context, tmp_path, monkeypatch):
    base, _ = world
    monkeypatch.setattr(builder_module, "WORTH_KEEPING", math.inf)
    builder = ModelBuilder(base, context, TensorCache(tmp_path))
    builder.build(RECIPE, fidelity=1.0)
    builder.build(RECIPE, fidelity=0.5)
    ModelBuilder(base, replace(context, seed=7), TensorCache(tmp_path)).build(RECIPE, fidelity=0.5)
    builder.build(RECIPE.without("prune_mlp"), fidelity=0.5)
    assert len(list((tmp_path / "models").rglob("*.safetensors"))) == 4


def test_building_leaves_the_base_alone_and_repeats_itself(world, context):
    base, _ = world
    before = {name: value.clone() for name, value in base.module.state_dict().items()}
    one, two = (apply_steps(base.module, RECIPE, context) for _ in range(2))
    assert same(one, two)
    assert all(torch.equal(before[name], value) for name, value in base.module.state_dict().items())


def test_distillation_recovers_what_pruning_lost(world, context):
    base, splits = world
    recipe = Recipe((Step.make("prune_mlp", keep=0.25, compensate=False), Step.make("distill", epochs=6)))

    def top1(model) -> float:
        return float(
            (predict(model, splits.validation, base.normalise).argmax(1) == splits.validation.labels).float().mean()
        )

    pruned = apply_steps(base.module, recipe.without("distill"), context)
    assert top1(apply_steps(base.module, recipe, context)) >= max(0.8, top1(pruned))


def test_skeletons_have_the_shape_without_touching_data(world, context):
    base, _ = world
    empty, full = skeleton(base, RECIPE), apply_steps(base.module, RECIPE, context)
    assert {name: value.shape for name, value in empty.state_dict().items()} == {
        name: value.shape for name, value in full.state_dict().items()
    }


def test_weights_that_are_not_finite_fail_the_trial(world, context):
    base, _ = world
    broken = replace(base, module=load(base.spec).module)
    with torch.no_grad():
        next(broken.module.parameters()).fill_(float("nan"))
    with pytest.raises(TrialError):
        apply_steps(
            broken.module,
            Recipe((Step.make("prune_mlp", keep=0.5, importance="magnitude", compensate=False),)),
            context,
        )
