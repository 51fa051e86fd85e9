"""Promises of every technique, held on every family of models that it says it fits."""

from __future__ import annotations

import copy
import os
import random
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

from sousvit.errors import TrialError, UserError
from sousvit.machine import computes_bf16, int8_saturates
from sousvit.objectives.runtimes.parity import check_parity
from sousvit.objectives.runtimes.runtime import open_session
from sousvit.spaces import conformance
from sousvit.spaces.builder import apply_steps
from sousvit.spaces.conformance import FlatTeacher, check_model_technique, exported, weight_bytes
from sousvit.spaces.context import Context
from sousvit.spaces.export.export import make_artifact
from sousvit.spaces.layers.quantized import has_quantized
from sousvit.spaces.module_shape import macs_of, shape_of, vit_shape
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.shape import VitShape
from sousvit.spaces.space import make_space, read_space
from sousvit.spaces.technique import DeployTechnique, ModelTechnique, get_technique, techniques
from sousvit.spaces.techniques.students.student import HYBRIDS

#: Random recipes in all; CI asks for more than a developer waits for.
RECIPES = int(os.environ.get("SOUSVIT_RANDOM_RECIPES", "100"))
PARTS = 10
FAMILIES = ("class_token", "average", "distilled", "layer_scale", "clip", "class_and_mean")
MODEL_TECHNIQUES = [technique.name for technique in techniques() if isinstance(technique, ModelTechnique)]
DEPLOY_TECHNIQUES = [technique.name for technique in techniques() if isinstance(technique, DeployTechnique)]


def middle_step(name: str, shape: VitShape) -> Step:
    return conformance.middle_step(get_technique(name), shape)


def family_model(make_vit, family: str, **changes) -> nn.Module:
    return make_vit(family, embed_dim=64, num_heads=4, **changes)


def model_for_litert(make_vit) -> nn.Module:
    """Two blocks: a conversion takes a second for each."""
    return family_model(make_vit, "class_token", depth=2)


def training_context(model: nn.Module, make_context, size: tuple[int, int] | None = None) -> Context:
    context = make_context(model, 48, size)
    train = context.calibration.head(16)
    return replace(context, train=train, teacher=FlatTeacher(16, 5), fidelity=0.25)


#: Bytes of a model's float weights by runtime, so that one model compressed in ten ways is exported once as it is.
FLOAT_BYTES: weakref.WeakKeyDictionary[nn.Module, dict[str, int]] = weakref.WeakKeyDictionary()


def float_bytes(model: nn.Module, runtime: str, context: Context, folder: Path) -> int:
    known = FLOAT_BYTES.setdefault(model, {})
    if runtime not in known:
        known[runtime] = weight_bytes(exported(model, Recipe((), runtime), context, folder))
    return known[runtime]


def agree(model: nn.Module, recipe: Recipe, context: Context, folder: Path, bytes_fall: bool = True) -> None:
    """Export for the recipe's runtime and compare with PyTorch through the deployed session.

    Layers that are quantized in PyTorch compute the same in the runtime; others round on their own, and are only asked
    for ordinary numbers (their accuracy is measured in every trial). With ``bytes_fall``, fewer bits must show in
    the file.
    """
    artifact = exported(model, recipe, context, folder)
    images = context.normalise(context.calibration.head(8).images()).numpy()
    deploy = recipe.deploy_step
    simulated = model
    if deploy is not None:
        simulated = deploy.handler.prepare(copy.deepcopy(model), deploy.config, context)
    weights = sum(p.numel() for p in model.parameters() if p.ndim > 1)
    if bytes_fall and recipe.bytes_per_weight < 4 and not has_quantized(model) and weights > 50_000:
        found = weight_bytes(artifact)
        if found >= 4 * weights:  # below, no float file can be as small, and another export is saved
            assert found < float_bytes(model, recipe.runtime, context, folder.with_name("plain")), str(recipe)
    with open_session(artifact, 1) as session:
        check_parity(session, model, images, quantized=recipe.is_quantized)
        # On a CPU that computes in bf16 every layer rounds on its own where the artifact asks for it.
        in_bf16 = computes_bf16() and "bf16" in artifact.options.values()
        if has_quantized(simulated) and not in_bf16:
            with torch.no_grad():
                expected = simulated.eval()(torch.from_numpy(images))
            error = (torch.from_numpy(session.run(images)) - expected).norm() / expected.norm()
            # Where a value lies on a rounding edge, the runtimes may step to the other side.
            assert float(error) < 0.1, f"{recipe}: {float(error):.3f} from the simulated layers"
        assert session.run(images[:3]).shape == (3, 5)


def test_every_technique_fits_three_families_or_says_why(make_vit):
    for name in MODEL_TECHNIQUES:
        reasons = [get_technique(name).unmet_need(vit_shape(family_model(make_vit, family))) for family in FAMILIES]
        fitting = reasons.count(None)
        assert fitting >= 3 or (name == "distill_token" and fitting >= 2), (name, reasons)


BLIND = [technique.name for technique in techniques() if not technique.needs.images]


@pytest.mark.parametrize("name", BLIND)
def test_a_technique_that_uses_no_images_does_the_same_without(name, make_vit, make_context, tmp_path):
    model = family_model(make_vit, "class_token")
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
def test_a_model_technique_keeps_its_promises(name, family, make_vit, make_context, tmp_path):
    model = family_model(make_vit, family)
    handler, shape = get_technique(name), vit_shape(model)
    if handler.unmet_need(shape) is not None:
        with pytest.raises(UserError, match="needs a model that fits"):
            Recipe((Step.make(name),)).reshape(shape)
        return
    context = training_context(model, make_context)
    changed = check_model_technique(handler, lambda: family_model(make_vit, family), context)
    agree(changed, Recipe((middle_step(name, shape),)), context, tmp_path / "artifact")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", DEPLOY_TECHNIQUES)
def test_a_deploy_technique_keeps_its_promises(name, family, make_vit, make_context, tmp_path, toy_runtime):
    model = family_model(make_vit, family)
    context = make_context(model, 48)
    for runtime in sorted(get_technique(name).runtimes):
        if runtime == "litert" and family != FAMILIES[0]:
            continue  # seconds each
        recipe = Recipe((middle_step(name, vit_shape(model)),), runtime)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        agree(model, recipe, context, tmp_path / runtime)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", MODEL_TECHNIQUES)
def test_a_model_technique_exports_to_a_made_up_runtime(name, make_vit, make_context, tmp_path, toy_runtime):
    handler, model = get_technique(name), family_model(make_vit, "class_token")
    step = middle_step(name, vit_shape(model))
    if not handler.suits(toy_runtime):
        with pytest.raises(UserError, match=f"{name} must suit the runtime; received {toy_runtime}; use one of "):
            Recipe((step,), toy_runtime)
        return
    changed = handler.apply(model, step.config, training_context(model, make_context)).eval()
    agree(changed, Recipe((step,), toy_runtime), make_context(model), tmp_path / "artifact")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODEL_TECHNIQUES if get_technique(name).suits("litert")])
def test_a_model_technique_converts_to_litert(name, make_vit, make_context, tmp_path):
    model = model_for_litert(make_vit)
    step = middle_step(name, vit_shape(model))
    changed = step.handler.apply(model, step.config, training_context(model, make_context)).eval()
    agree(changed, Recipe((step,), "litert"), make_context(model), tmp_path / "artifact")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sima", "focused"])
def test_other_forms_of_attention_convert_to_litert(kind, make_vit, make_context, tmp_path):
    model = model_for_litert(make_vit)
    step = Step.make("attention", kind=kind)
    changed = step.handler.apply(model, step.config, make_context(model))
    agree(changed, Recipe((step,), "litert"), make_context(model), tmp_path / "artifact")


class RandomTrial:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def suggest_categorical(self, name, choices):
        return self.random.choice(list(choices))


def random_space(shape: VitShape):
    """Every technique; the slow quantizer has tests of its own, as have the students that are no plain ViTs."""
    definition = read_space("all")
    chosen = {name: dict(values) for name, values in definition["techniques"].items() if name != "ptq_int8"}
    for name in ("prune_heads", "prune_mlp"):
        chosen[name] = {**chosen[name], "importance": ["activation", "taylor"]}
    return make_space({"techniques": chosen}, shape, ("onnxruntime", "openvino"))[0]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
def test_random_recipes_build_export_and_run(part, make_vit, make_context, skeleton, tmp_path):
    family = FAMILIES[part % len(FAMILIES)]
    base = family_model(make_vit, family)
    shape = vit_shape(base)
    space = random_space(shape)
    context = training_context(base, make_context)
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
        model = run_steps(family_model(make_vit, family), recipe, replace(context, decisions=decisions))
        bare = run_steps(family_model(make_vit, family), recipe, replace(skeleton, decisions=decisions))
        assert {key: value.shape for key, value in model.state_dict().items()} == {
            key: value.shape for key, value in bare.state_dict().items()
        }, str(recipe)
        real = vit_shape(model)
        if not recipe.shapes_by_data:
            assert (real.macs(), real.params()) == (expected.macs(), expected.params()), str(recipe)
        try:
            agree(model, recipe, context, tmp_path / "artifact", bytes_fall=False)  # each technique's own test asks
        except TrialError as error:
            pytest.fail(f"seed {seed}: {recipe}: {error}")
        built += 1


def run_steps(model: nn.Module, recipe: Recipe, context: Context) -> nn.Module:
    torch.manual_seed(context.seed)
    for step in recipe.model_steps:
        model = step.handler.apply(model, step.config, context)
    return model.eval()


#: Families that are no plain Vision Transformers, as bases: quantization and recovery training fit them.
HIERARCHICAL = {
    "swin_tiny_patch4_window7_224": {"img_size": 32, "window_size": 4, "embed_dim": 16, "depths": (1, 1, 1, 1)},
    "levit_128s": {"img_size": 64, "embed_dim": (32, 48, 64), "depth": (1, 1, 1), "num_heads": (2, 3, 4)},
    "mobilevit_xxs": {},
    "repvit_m0_9": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("family", HIERARCHICAL)
def test_hierarchical_bases_are_quantized_and_trained(family, make_context, tmp_path):
    torch.manual_seed(0)
    base = timm.create_model(family, num_classes=5, **HIERARCHICAL[family]).eval()
    size = (HIERARCHICAL[family].get("img_size", 64),) * 2
    context = training_context(base, make_context, size)
    shape = shape_of(base, family, size, 3, 5)
    space, left_out = make_space(read_space("all"), shape, ("onnxruntime", "openvino"))
    assert "no plain Vision Transformer" in left_out["prune_mlp"] and "distill" not in left_out
    has_linear = family != "repvit_m0_9"
    assert left_out.keys().isdisjoint({"qat", "static_int8", "int8_dynamic"}) == has_linear
    models = [Step.make("distill", epochs=4, num_views=1)]
    models += [Step.make("qat", epochs=4, num_views=1, weights="int7" if int8_saturates() else "int8")] * has_linear
    deploys = [Recipe((option.default_step(),), runtime) for runtime, option in space.deploys.values() if option]
    assert len(deploys) >= 5 + 3 * has_linear
    for recipe in [*(Recipe((step,)) for step in models), *deploys]:
        if not has_linear and str(recipe).startswith("weight_only") and recipe.runtime == "onnxruntime":
            with pytest.raises(TrialError, match="nothing to compress"):
                agree(base, recipe, context, tmp_path / "artifact")
            continue
        model = run_steps(copy.deepcopy(base), recipe, context) if recipe.model_steps else base
        expected = recipe.reshape(shape)
        assert (expected.params(), expected.macs()) == (shape.params(), macs_of(base, (3, *size)))
        agree(model, recipe, context, tmp_path / "artifact")


DEPLOYED = {"onnxruntime": ("static_int8", "int8_dynamic"), "openvino": ("fp16",), "litert": ("litert_dynamic",)}


@pytest.mark.slow
@pytest.mark.parametrize("student", ["vit_64x4", "efficientvit_b0", "repvit_m0_9", "edgenext_xx_small"])
def test_compact_students_train_and_deploy(student, make_vit, make_context, tmp_path):
    base = make_vit(img_size=32, embed_dim=64, num_heads=4)
    shape = vit_shape(base)
    steps = (Step.make("student", model=student), Step.make("distill", epochs=4, feature_weight=0.5))
    context = training_context(base, make_context)
    trained = Recipe(steps).canonical(shape)
    model = run_steps(base, trained, context)
    costs = sum(parameter.numel() for parameter in model.parameters()), macs_of(model, (3, 32, 32))
    for runtime, deploys in DEPLOYED.items():
        for number, deploy in enumerate(deploys):
            recipe = Recipe((*steps, Step.make(deploy)), runtime).canonical(shape)
            if get_technique(deploy).needs.linear and student in ("efficientvit_b0", "repvit_m0_9"):
                with pytest.raises(UserError, match="no linear layers"):
                    recipe.reshape(shape)
                continue
            expected = recipe.reshape(shape)
            assert recipe.model_steps == trained.steps and (expected.params(), expected.macs()) == costs
            if (runtime, student) == ("litert", "edgenext_xx_small"):
                with pytest.raises(TrialError, match="the LiteRT conversion failed"):
                    agree(model, recipe, context, tmp_path / "artifact")
                continue
            agree(model, recipe, context, tmp_path / f"{runtime}{number}")


@pytest.mark.slow
@pytest.mark.parametrize("student", HYBRIDS)
def test_every_hybrid_student_is_built_and_exported_at_its_smallest_image(student, make_vit, make_context, tmp_path):
    base = make_vit(img_size=HYBRIDS[student], patch_size=HYBRIDS[student] // 4)
    shape = vit_shape(base)
    assert student in get_technique("student").choices(shape)["model"]
    recipe = Recipe((Step.make("student", model=student),))
    model = run_steps(base, recipe, make_context(base, 8))
    assert recipe.reshape(shape).params() == sum(parameter.numel() for parameter in model.parameters())
    agree(model, recipe, make_context(base, 8), tmp_path / "artifact")


def test_after_a_hybrid_student_structural_techniques_are_excluded_with_a_reason(make_vit):
    shape = vit_shape(make_vit(img_size=32))
    recipe = Recipe((Step.make("student", model="repvit_m0_9"), Step.make("prune_mlp")))
    with pytest.raises(UserError, match="repvit_m0_9 is no plain Vision Transformer"):
        recipe.reshape(shape)
    plain = Recipe((Step.make("student", model="vit_64x4"), Step.make("prune_mlp", keep=0.5)))
    assert plain.reshape(shape).embed_dim == 64


@pytest.mark.parametrize("name", ["mixer_b16_224", "no_such_model"])
def test_a_student_that_does_not_suit_is_one_clear_line(name, make_vit):
    with pytest.raises(UserError) as caught:
        Recipe((Step.make("student", model=name),)).reshape(vit_shape(make_vit()))
    assert "student" in str(caught.value) and "\n" not in str(caught.value)
