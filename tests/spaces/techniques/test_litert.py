"""Every technique's model converts to LiteRT; a conversion takes seconds, so those of plain ViTs share one."""

from __future__ import annotations

import pytest
from torch import nn

from sousvit.spaces.conformance import middle_step
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.technique import ModelTechnique, techniques

#: What leaves a plain Vision Transformer, of another size or with other weights: nothing new to a converter.
PLAIN = (
    "synthesize",
    "elastic",
    "patch_size",
    "prune_depth",
    "prune_embed",
    "prune_head_dim",
    "low_rank",
    "prune_heads",
    "prune_mlp",
    "sparsify",
    "distill",
)
SUITED = [one for one in techniques() if isinstance(one, ModelTechnique) and one.suits("litert")]
TOGETHER = [one for one in SUITED if one.name in PLAIN]
CONVERSIONS = [TOGETHER, *([one] for one in SUITED if one not in TOGETHER)]


def model_for_litert(family_model) -> nn.Module:
    """Two blocks: a conversion takes a second for each."""
    return family_model("class_token", depth=2)


@pytest.mark.slow
@pytest.mark.parametrize("group", CONVERSIONS, ids=lambda group: group[0].name if len(group) == 1 else "plain")
def test_a_model_technique_converts_to_litert(group, agree, training_context, family_model, make_context, tmp_path):
    model, steps = model_for_litert(family_model), []
    context = make_context(model)
    for technique in group:
        steps.append(middle_step(technique, vit_shape(model)))
        model = technique.apply(model, steps[-1].config, training_context(model)).eval()
    agree(model, Recipe(tuple(steps), "litert"), context, tmp_path / "artifact")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sima", "focused"])
def test_other_forms_of_attention_convert_to_litert(kind, agree, family_model, make_context, tmp_path):
    model = model_for_litert(family_model)
    step = Step.make("attention", kind=kind)
    changed = step.handler.apply(model, step.config, make_context(model))
    agree(changed, Recipe((step,), "litert"), make_context(model), tmp_path / "artifact")
