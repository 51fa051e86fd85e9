"""Recipes as values, and spaces that make them: round trips, rules of combination, suggestions."""

from __future__ import annotations

import json
import random

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sousvit.errors import UserError
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.shape import OtherShape, VitShape
from sousvit.spaces.space import make_space, preset_names, read_space
from sousvit.spaces.technique import DeployTechnique, ModelTechnique, get_technique, techniques

RUNTIMES = ("onnxruntime", "openvino", "litert")


@pytest.fixture(scope="module")
def shape() -> VitShape:
    import timm

    model = timm.create_model(
        "deit_tiny_patch16_224", img_size=32, patch_size=4, embed_dim=48, depth=4, num_heads=3, num_classes=10
    )
    return vit_shape(model)


class RandomTrial:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def suggest_categorical(self, name, choices):
        return self.random.choice(list(choices))


@pytest.mark.parametrize("technique", list(techniques()), ids=lambda technique: technique.name)
def test_every_technique_declares_itself_and_round_trips(technique, shape):
    assert technique.summary and technique.source and issubclass(type(technique), (ModelTechnique, DeployTechnique))
    for name in technique.needs.conflicts:
        assert get_technique(name).excludes(technique)
    choices = technique.choices(shape)
    assert set(choices) <= set(technique.config.model_fields)
    for name, values in choices.items():
        for value in values:
            step = Step.make(
                technique.name, **{**{other: entries[0] for other, entries in choices.items()}, name: value}
            )
            runtime = min(technique.runtimes) if isinstance(technique, DeployTechnique) else "onnxruntime"
            recipe = Recipe((step,), runtime)
            assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
            assert Recipe.from_dict(yaml.safe_load(yaml.safe_dump(recipe.to_dict()))) == recipe


@given(st.integers(0, 10_000))
@settings(max_examples=200, deadline=None)
def test_suggested_recipes_are_valid_and_can_be_asked_again(shape, seed):
    space, _ = make_space(read_space("default"), shape, RUNTIMES)
    recipe = space.suggest(RandomTrial(seed))
    try:
        small = recipe.reshape(shape)
    except UserError as error:  # few blocks cannot merge many tokens: the one combination that depends on values
        assert "merges at most half" in str(error)
        return
    assert small.params() > 0 and small.num_classes == shape.num_classes
    canonical = recipe.canonical(shape)
    assert canonical.canonical(shape) == canonical
    assert canonical.reshape(shape) == small
    parameters = space.parameters(canonical, shape)
    assert parameters is not None
    assert Recipe.from_dict(canonical.to_dict()).hash == canonical.hash


def test_steps_that_change_nothing_are_dropped(shape):
    recipe = Recipe(
        (Step.make("prune_mlp", keep=1.0), Step.make("prune_depth", drop=0), Step.make("distill", epochs=3))
    )
    assert recipe.canonical(shape) == Recipe()


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"steps": [{"technique": "prune_mpl"}]}, "did you mean 'prune_mlp'"),
        ({"steps": [{"technique": "prune_mlp", "keep": 2}]}, "keep"),
        ({"steps": [{"technique": "prune_mlp", "width": 2}]}, "width"),
        ({"steps": [{"technique": "prune_mlp"}, {"technique": "prune_mlp"}]}, "names a technique once"),
        ({"steps": [{"technique": "tome"}, {"technique": "evit"}]}, "exclude each other"),
        ({"steps": [{"technique": "distill"}, {"technique": "prune_mlp"}]}, "steps go images, base, input, structure"),
        ({"steps": [{"technique": "int8_dynamic"}], "runtime": "openvino"}, "must suit the runtime"),
        ({"steps": [], "runtime": "tensorrt"}, "runtime must be a known name"),
        ({"steps": [], "runtime": {"a": 1}}, "runtime must be a known name"),
        ({"steps": [], "runtime": None}, "runtime must be a known name"),
        ({"steps": [{"keep": 1}]}, "names its technique"),
        ({"steps": {"a": 1}}, "a list of steps"),
        ({"stages": []}, "runtime and a list of steps"),
    ],
)
def test_bad_recipes_are_one_clear_line(recipe, words):
    with pytest.raises(UserError) as caught:
        Recipe.from_dict(recipe)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([{"technique": "attention", "kind": "sima", "landmarks": 4}], [{"technique": "attention", "kind": "sima"}]),
        ([{"technique": "sparsify", "pattern": "2:4", "sparsity": 0.7}], [{"technique": "sparsify", "pattern": "2:4"}]),
        ([{"technique": "static_int8", "strength": 0.2}], [{"technique": "static_int8"}]),
        (
            [{"technique": "tome", "keep": 0.5}, {"technique": "distill", "attention_weight": 1.0}],
            [{"technique": "tome", "keep": 0.5}, {"technique": "distill"}],
        ),
    ],
)
def test_parameters_without_effect_make_no_other_recipe(one, other, shape):
    recipes = [Recipe.from_dict({"steps": steps}).canonical(shape) for steps in (one, other)]
    assert recipes[0] == recipes[1]
    space = make_space(read_space("all"), shape, ("onnxruntime", "openvino"))[0]
    if recipes[0].steps[-1].technique in ("attention", "sparsify"):
        assert space.parameters(recipes[0], shape) is not None  # what an archive holds can be asked again


def test_parameters_with_an_effect_are_kept(shape):
    steps = [{"technique": "static_int8", "smoothing": "smooth", "strength": 0.2}]
    assert Recipe.from_dict({"steps": steps}).canonical(shape).steps[0].config.strength == 0.2


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([{"technique": "drop_patches", "keep": 0.5}, {"technique": "distill_token"}], "patches left out already"),
        (
            [{"technique": "prune_mlp", "allocation": "global"}, {"technique": "prune_depth"}],
            "prune_depth needs blocks of one width",
        ),
    ],
)
def test_orders_that_would_go_wrong_are_refused(steps, words, shape):
    with pytest.raises(UserError, match=words):
        Recipe.from_dict({"steps": steps}).reshape(shape)


@pytest.mark.parametrize("name", preset_names())
def test_presets_make_spaces(name, shape):
    space, left_out = make_space(read_space(name), shape, RUNTIMES, has_images=False)
    assert space.size > 1 and not left_out


def test_steps_that_do_not_fit_are_left_out_of_a_fitting_recipe(shape):
    merging, deep = Step.make("tome", keep=0.5), Step.make("prune_depth", drop=99)
    recipe = Recipe((deep, merging, Step.make("int8_dynamic")))
    with pytest.raises(UserError, match="at least one block"):
        recipe.reshape(shape)
    assert recipe.fitting(shape) == recipe.without("prune_depth")
    assert recipe.without("prune_depth").fitting(shape) == recipe.without("prune_depth")


@pytest.mark.parametrize("seed", range(40))
def test_any_suggestion_fits_once_made_fitting_and_canonical(shape, seed):
    space, _ = make_space(read_space("all"), shape, RUNTIMES)
    recipe = space.suggest(RandomTrial(seed)).fitting(shape).canonical(shape)
    assert recipe.reshape(shape).params() > 0


def test_images_are_synthesised_only_where_there_are_none(shape):
    _, left_out = make_space(read_space("default"), shape, RUNTIMES)
    assert left_out == {"synthesize": "there are training images"}


def test_techniques_that_do_not_fit_are_left_out_with_a_reason(shape):
    _, left_out = make_space(read_space("default"), shape, ("onnxruntime",))
    assert "ptq_int8" in left_out and "openvino" not in left_out["ptq_int8"].split("for")[0]
    swin = OtherShape("swin", (32, 32), 3, 5, 9, 9, 9, 2)
    space, left_out = make_space(read_space("default"), swin, ("onnxruntime",))
    assert "no plain Vision Transformer" in left_out["prune_mlp"]
    assert space.deploys


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        ("defualt", "did you mean 'default'"),
        ({"techniques": {"prune_mpl": {}}}, "did you mean 'prune_mlp'"),
        ({"techniques": {"prune_mlp": {"kep": [1]}}}, "parameter of prune_mlp"),
        ({"technique": {}}, "a space holds techniques"),
    ],
)
def test_bad_spaces_are_one_clear_line(definition, words):
    with pytest.raises(UserError, match=words):
        read_space(definition)


def test_bad_values_in_a_space_are_found_before_the_search(shape):
    with pytest.raises(UserError, match="keep"):
        make_space(read_space({"techniques": {"prune_mlp": {"keep": [0.5, 7]}}}), shape, RUNTIMES)


def test_steps_that_a_runtime_does_not_take_are_never_suggested_for_it(shape):
    """LiteRT's converter takes no layers that round."""
    with pytest.raises(UserError, match="qat must suit the runtime; received litert; use one of onnxruntime, openvino"):
        Recipe((Step.make("qat"),), "litert")
    techniques = {"techniques": {"qat": {}, "prune_mlp": {}, "litert_dynamic": {}}}
    alone, left_out = make_space(read_space(techniques), shape, ("litert",))
    assert left_out == {"qat": "makes no artifact for litert"}
    assert {space_runtime for space_runtime, _ in alone.deploys.values()} == {"litert"}
    both, left_out = make_space(read_space(techniques), shape, ("litert", "openvino"))
    assert not left_out and both.first_runtime() == "litert" and both.first_runtime(Step.make("qat")) == "openvino"
    runtimes = {both.suggest(RandomTrial(seed)).runtime for seed in range(40)}
    assert runtimes == {"openvino"}  # this space always trains by qat
