"""Models that are no plain Vision Transformers: as bases, and as students."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.models.mobilevit import MobileVitBlock
from torch import nn

from sousvit.errors import TrialError, UserError
from sousvit.machine import int8_saturates
from sousvit.spaces.layers.merging import merged
from sousvit.spaces.module_shape import macs_of, shape_of, vit_shape
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.space import make_space, read_space
from sousvit.spaces.technique import get_technique
from sousvit.spaces.techniques.students.named import HYBRIDS

#: Families that are no plain Vision Transformers, as bases: quantization and recovery training fit them.
HIERARCHICAL = {
    "swin_tiny_patch4_window7_224": {"img_size": 32, "window_size": 4, "embed_dim": 16, "depths": (1, 1, 1, 1)},
    "levit_128s": {"img_size": 64, "embed_dim": (32, 48, 64), "depth": (1, 1, 1), "num_heads": (2, 3, 4)},
    "mobilevit_xxs": {},
    "repvit_m0_9": {"embed_dim": (16, 24, 32, 48), "depth": (1, 1, 1, 1)},
}


def hierarchical(family: str) -> nn.Module:
    """A small base of a family; the whole models are exported as students."""
    torch.manual_seed(0)
    base = timm.create_model(family, num_classes=5, **HIERARCHICAL[family])
    if family == "mobilevit_xxs":  # timm takes no depths for it
        base.stages[1] = base.stages[1][:1]
        for part in base.modules():
            if isinstance(part, MobileVitBlock):
                part.transformer = part.transformer[:1]
    return base.eval()


@pytest.mark.slow
@pytest.mark.parametrize("family", HIERARCHICAL)
def test_hierarchical_bases_are_quantized_and_trained(family, agree, apply_recipe, training_context, tmp_path):
    base = hierarchical(family)
    size = (HIERARCHICAL[family].get("img_size", 64),) * 2
    context = training_context(base, size)
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
        model = apply_recipe(copy.deepcopy(base), recipe, context) if recipe.model_steps else base
        expected = recipe.reshape(shape)
        assert (expected.params(), expected.macs()) == (shape.params(), macs_of(merged(base), (3, *size)))
        agree(model, recipe, context, tmp_path / "artifact")


DEPLOYED = {"onnxruntime": ("static_int8", "int8_dynamic"), "openvino": ("fp16",), "litert": ("litert_dynamic",)}


@pytest.mark.slow
@pytest.mark.parametrize("student", ["vit_64x4", "efficientvit_b0", "repvit_m0_9", "edgenext_xx_small"])
def test_compact_students_train_and_deploy(student, agree, apply_recipe, training_context, make_vit, tmp_path):
    base = make_vit(img_size=32, embed_dim=64, num_heads=4)
    shape = vit_shape(base)
    steps = (Step.make("student", model=student), Step.make("distill", epochs=4, feature_weight=0.5))
    context = training_context(base)
    trained = Recipe(steps).canonical(shape)
    model = apply_recipe(base, trained, context)
    deployed = merged(model)
    costs = sum(parameter.numel() for parameter in deployed.parameters()), macs_of(deployed, (3, 32, 32))
    for runtime, deploys in DEPLOYED.items():
        for number, deploy in enumerate(deploys):
            recipe = Recipe((*steps, Step.make(deploy)), runtime).canonical(shape)
            if get_technique(deploy).needs.linear and student in ("efficientvit_b0", "repvit_m0_9"):
                with pytest.raises(UserError, match="no linear layers"):
                    recipe.reshape(shape)
                continue
            expected = recipe.reshape(shape)
            assert recipe.model_steps == trained.steps and (expected.params(), expected.macs()) == costs
            agree(model, recipe, context, tmp_path / f"{runtime}{number}")


@pytest.mark.slow
@pytest.mark.parametrize("student", HYBRIDS)
def test_every_hybrid_student_is_built_and_exported_at_its_smallest_image(
    student, agree, apply_recipe, make_vit, make_context, tmp_path
):
    base = make_vit(img_size=HYBRIDS[student], patch_size=HYBRIDS[student] // 4)
    shape = vit_shape(base)
    assert student in get_technique("student").choices(shape)["model"]
    recipe = Recipe((Step.make("student", model=student), Step.make("distill")))
    model = apply_recipe(base, recipe, make_context(base, 8))
    assert recipe.reshape(shape).params() == sum(parameter.numel() for parameter in merged(model).parameters())
    agree(model, recipe, make_context(base, 8), tmp_path / "artifact")


def test_after_a_hybrid_student_structural_techniques_are_excluded_with_a_reason(make_vit):
    shape = vit_shape(make_vit(img_size=32))
    training = Step.make("distill")
    recipe = Recipe((Step.make("student", model="repvit_m0_9"), Step.make("prune_mlp"), training))
    with pytest.raises(UserError, match="repvit_m0_9 is no plain Vision Transformer"):
        recipe.reshape(shape)
    plain = Recipe((Step.make("student", model="vit_64x4"), Step.make("prune_mlp", keep=0.5), training))
    assert plain.reshape(shape).embed_dim == 64
    with pytest.raises(UserError, match="a student must be trained"):
        plain.without("distill").reshape(shape)


@pytest.mark.parametrize("name", ["mixer_b16_224", "no_such_model"])
def test_a_student_that_does_not_suit_is_one_clear_line(name, make_vit):
    with pytest.raises(UserError) as caught:
        Recipe((Step.make("student", model=name),)).reshape(vit_shape(make_vit()))
    assert "student" in str(caught.value) and "\n" not in str(caught.value)
