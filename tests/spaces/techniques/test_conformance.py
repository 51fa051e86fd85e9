"""Promises of every technique, held on every family of models that it says it fits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sousvit.errors import UserError
from sousvit.objectives.runtimes.runtime import open_session
from sousvit.spaces import conformance
from sousvit.spaces.builder import apply_steps
from sousvit.spaces.conformance import check_model_technique
from sousvit.spaces.export.export import make_artifact
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.shape import VitShape
from sousvit.spaces.technique import DeployTechnique, ModelTechnique, get_technique, techniques

FAMILIES = ("class_token", "average", "distilled", "layer_scale", "clip", "class_and_mean")
MODEL_TECHNIQUES = [technique.name for technique in techniques() if isinstance(technique, ModelTechnique)]
DEPLOY_TECHNIQUES = [technique.name for technique in techniques() if isinstance(technique, DeployTechnique)]


def middle_step(name: str, shape: VitShape) -> Step:
    return conformance.middle_step(get_technique(name), shape)


def test_every_technique_fits_three_families_or_says_why(family_model):
    for name in MODEL_TECHNIQUES:
        reasons = [get_technique(name).unmet_need(vit_shape(family_model(family))) for family in FAMILIES]
        fitting = reasons.count(None)
        assert fitting >= 3 or (name == "distill_token" and fitting >= 2), (name, reasons)


BLIND = [technique.name for technique in techniques() if not technique.needs.images]


@pytest.mark.parametrize("name", BLIND)
def test_a_technique_that_uses_no_images_does_the_same_without(
    name, family_model, make_context, tmp_path, shared_graphs
):
    model = family_model("class_token")
    step, context = middle_step(name, vit_shape(model)), make_context(model)
    runtimes = {"onnxruntime"} if isinstance(step.handler, ModelTechnique) else step.handler.runtimes
    runtime = max(runtimes)  # any of them, but LiteRT's conversions take seconds
    images, outputs = context.normalise(context.calibration.head(4).images()).numpy(), []
    for place, one in enumerate((context, replace(context, calibration=None))):
        changed = apply_steps(model, Recipe((step,), runtime), one)
        last = step if isinstance(step.handler, DeployTechnique) else None
        shape, folder = (1, 3, *model.patch_embed.img_size), tmp_path / str(place)
        artifact = make_artifact(changed, shape, (0.5,) * 3, (0.25,) * 3, runtime, last, one, folder)
        with open_session(artifact, 1) as session:
            outputs.append(session.run(images))
    assert np.array_equal(*outputs)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", MODEL_TECHNIQUES)
def test_a_model_technique_keeps_its_promises(name, family, agree, training_context, family_model, tmp_path):
    model = family_model(family)
    handler, shape = get_technique(name), vit_shape(model)
    if handler.unmet_need(shape) is not None:
        with pytest.raises(UserError, match="needs a model that fits"):
            Recipe((Step.make(name),)).reshape(shape)
        return
    context = training_context(model)
    changed = check_model_technique(handler, lambda: family_model(family), context)
    agree(changed, Recipe((middle_step(name, shape),)), context, tmp_path / "artifact")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", DEPLOY_TECHNIQUES)
def test_a_deploy_technique_keeps_its_promises(name, family, agree, family_model, make_context, tmp_path, toy_runtime):
    model = family_model(family)
    context = make_context(model, 48)
    for runtime in sorted(get_technique(name).runtimes):
        if runtime == "litert" and family != FAMILIES[0]:
            continue  # seconds each
        recipe = Recipe((middle_step(name, vit_shape(model)),), runtime)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        agree(model, recipe, context, tmp_path / runtime)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", MODEL_TECHNIQUES)
def test_a_model_technique_exports_to_a_made_up_runtime(
    name, agree, training_context, family_model, make_context, tmp_path, toy_runtime
):
    handler, model = get_technique(name), family_model("class_token")
    step = middle_step(name, vit_shape(model))
    if not handler.suits(toy_runtime):
        with pytest.raises(UserError, match=f"{name} must suit the runtime; received {toy_runtime}; use one of "):
            Recipe((step,), toy_runtime)
        return
    changed = handler.apply(model, step.config, training_context(model)).eval()
    agree(changed, Recipe((step,), toy_runtime), make_context(model), tmp_path / "artifact")
