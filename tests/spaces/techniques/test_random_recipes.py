"""Random recipes build, export and run."""

from __future__ import annotations

import os
import random
from dataclasses import replace

import pytest

from sousvit.errors import TrialError, UserError
from sousvit.spaces.module_shape import shape_of, vit_shape
from sousvit.spaces.shape import VitShape
from sousvit.spaces.space import make_space, read_space

FAMILIES = ("class_token", "average", "distilled", "layer_scale", "clip")
#: Random recipes in all, a sample; `make test-deep` asks for ten times as many.
RECIPES = int(os.environ.get("SOUSVIT_RANDOM_RECIPES", "100"))
PARTS = 10


class RandomTrial:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def suggest_categorical(self, name, choices):
        return self.random.choice(list(choices))


def random_space(shape: VitShape):
    """Every technique; the slow quantizer has tests of its own."""
    definition = read_space("all")
    chosen = {name: dict(values) for name, values in definition["techniques"].items() if name != "ptq_int8"}
    for name in ("prune_heads", "prune_mlp"):
        chosen[name] = {**chosen[name], "importance": ["activation", "taylor"]}
    return make_space({"techniques": chosen}, shape, ("onnxruntime", "openvino"))[0]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
def test_random_recipes_build_export_and_run(
    part, agree, apply_recipe, training_context, family_model, skeleton, tmp_path
):
    family = FAMILIES[part % len(FAMILIES)]
    base = family_model(family)
    shape = vit_shape(base)
    space = random_space(shape)
    context = training_context(base)
    built, seed = 0, 100_000 * part
    while built < RECIPES // PARTS:
        seed += 1
        recipe = space.suggest(RandomTrial(seed))
        try:
            recipe = recipe.canonical(shape)
            expected = recipe.reshape(shape)
        except UserError:
            continue  # declared: the engine's gate tells the sampler why
        decisions: dict = {}
        model = apply_recipe(family_model(family), recipe, replace(context, decisions=decisions))
        bare = apply_recipe(family_model(family), recipe, replace(skeleton, decisions=decisions))
        assert {key: value.shape for key, value in model.state_dict().items()} == {
            key: value.shape for key, value in bare.state_dict().items()
        }, str(recipe)
        real = shape_of(model, "", shape.image, shape.channels, shape.num_classes)
        if not recipe.shapes_by_data:
            assert (real.macs(), real.params()) == (expected.macs(), expected.params()), str(recipe)
        try:
            agree(model, recipe, context, tmp_path / "artifact", bytes_fall=False)  # each technique's own test asks
        except TrialError as error:
            pytest.fail(f"seed {seed}: {recipe}: {error}")
        built += 1
