"""The teacher's runtime: only one that agrees is chosen, the choice lasts, and small jobs are left alone."""

from __future__ import annotations

import copy

import pytest
import torch

from sousvit.cache import TensorCache
from sousvit.data import Splits
from sousvit.models.load import load
from sousvit.objectives.runtimes.torch_ import ModuleSession
from sousvit.search.judging import teacher_runtime as module
from sousvit.search.judging.teacher_runtime import INT8, PLAIN, TeacherRuntime, Tried, candidates, compared, int8_pays
from sousvit.spaces.context import Context
from sousvit.spaces.export.export import make_artifact
from sousvit.spaces.training.teacher import Teacher


def opened(project, folder, cache=None):
    """The runtime of a project's base, what it told, and the recipes that it had built."""
    base = load(project.model_spec())
    splits = Splits(project.data_spec(), base.size, base.channels)
    context = Context(base.normalise, splits.calibration(), splits.train)
    told, built = [], []

    def make(recipe):
        built.append(recipe)
        shape, step = (1, base.channels, *base.size), recipe.deploy_step
        return make_artifact(
            base.module, shape, base.mean, base.std, recipe.runtime, step, context, folder / recipe.hash
        )

    found = TeacherRuntime(base, cache or TensorCache(folder / "cache"), lambda *content: told.append(content[0]))
    found.begin(context, make)
    return found, base, splits, told, built


@pytest.fixture
def all_tried(monkeypatch):
    monkeypatch.setattr(module, "WORTH_TRYING", 0.0)
    monkeypatch.setattr(module, "int8_pays", lambda *_: True)


def test_what_is_chosen_is_the_fastest_that_agrees_and_gives_the_bases_predictions(tiny_project, tmp_path, all_tried):
    runtime, base, splits, told, _ = opened(tiny_project, tmp_path)
    images = base.normalise(splits.train.head(70).images())
    found = runtime(images)
    with torch.inference_mode():
        wanted = base.module(images)
    assert found.shape == wanted.shape and found.dtype == torch.float32
    assert (found.argmax(1) == wanted.argmax(1)).float().mean() > 0.9
    choice = runtime.choice
    assert set(choice.tried) == set(candidates()) and choice.tried[choice.name].agrees
    assert choice.tried[PLAIN].divergence < 1e-5
    agreeing = {name: each.images_per_second for name, each in choice.tried.items() if each.agrees}
    assert agreeing[choice.name] == max(agreeing.values())
    assert any(what.startswith(f"teacher: {choice.name}, ") for what in told)
    assert runtime.notes[0].startswith(f"the base taught in {choice.name}")
    runtime.close()


def test_a_run_that_goes_on_keeps_its_choice_however_slow(tiny_project, tmp_path, all_tried):
    runtime, *_ = opened(tiny_project, tmp_path)
    key = runtime._key
    slow = {name: {"images_per_second": 1.0, "divergence": 0.0, "same_top1": 1.0} for name in (PLAIN, "openvino fp32")}
    TensorCache(tmp_path / "cache").write(key, {}, {"chosen": "openvino fp32", "tried": slow})
    runtime, base, splits, _, built = opened(tiny_project, tmp_path)
    runtime(base.normalise(splits.train.head(2).images()))
    assert runtime.name == "openvino fp32" and [recipe.runtime for recipe in built] == ["openvino"]


def test_a_choice_that_this_machine_cannot_open_is_made_again(tiny_project, tmp_path):
    runtime, *_ = opened(tiny_project, tmp_path)
    elsewhere = {"images_per_second": 1.0, "divergence": 0.0, "same_top1": 1.0}
    TensorCache(tmp_path / "cache").write(runtime._key, {}, {"chosen": "npu", "tried": {"npu": elsewhere}})
    assert opened(tiny_project, tmp_path)[0].name == PLAIN


def test_few_images_are_read_as_they_always_were(tiny_project, tmp_path):
    runtime, *_, told, built = opened(tiny_project, tmp_path)
    assert runtime.name == PLAIN and runtime.notes == () and told == []
    assert [recipe.runtime for recipe in built] == ["onnxruntime"]


def test_a_detectors_predictions_come_from_the_plain_runtime(tiny_detection, tmp_path, all_tried):
    base = load(tiny_detection.model_spec())
    splits = Splits(tiny_detection.data_spec(), base.size, base.channels, None, True)
    context = Context(base.normalise, splits.calibration(), splits.train)
    runtime = TeacherRuntime(base, TensorCache(tmp_path / "cache"), lambda *_: None)
    shape = (1, base.channels, *base.size)
    runtime.begin(
        context,
        lambda recipe: make_artifact(
            base.module, shape, base.mean, base.std, recipe.runtime, recipe.deploy_step, context, tmp_path / "base"
        ),
    )
    images = base.normalise(splits.train.head(3).images())
    with torch.inference_mode():
        assert torch.allclose(runtime(images), base.module(images), atol=1e-3)
    assert runtime.name == PLAIN


def test_a_candidate_that_answers_otherwise_does_not_agree(tiny_project):
    base = load(tiny_project.model_spec())
    images = torch.randn(64, base.channels, *base.size)
    with torch.inference_mode():
        wanted = base.module(images)
    assert compared(ModuleSession(base.module, 1), images, wanted).agrees
    for factor, bias in ((-1.0, 0.0), (1.0, float("nan")), (0.1, 0.0)):  # another class; no numbers; too unsure
        wrong = copy.deepcopy(base.module)
        with torch.no_grad():
            wrong.head.weight.mul_(factor)
            wrong.head.bias.mul_(factor).add_(bias)
        assert not compared(ModuleSession(wrong, 1), images, wanted).agrees


def test_int8_is_built_where_it_saves_more_than_it_costs():
    plain, best = Tried(1000.0), Tried(2000.0)
    assert int8_pays(36_000, plain, best) and not int8_pays(2_000, plain, best)
    assert int8_pays(5_000, Tried(18.0), Tried(44.0)) and not int8_pays(500, Tried(18.0), Tried(44.0))


def test_a_stored_view_says_what_computed_it(tiny_project, tmp_path):
    cache = TensorCache(tmp_path / "views")
    runtime, base, splits, *_ = opened(tiny_project, tmp_path, cache)
    Teacher(base, splits.train, cache, forward=runtime)("none", 0, 0)
    [stored] = [path for path in (tmp_path / "views").rglob("*.safetensors") if "runtime" not in path.name]
    assert cache.read(f"teacher/{stored.stem}")[1] == {"runtime": PLAIN}


def test_int8_needs_images():
    assert INT8 not in candidates(images=False) and PLAIN in candidates(images=False)
