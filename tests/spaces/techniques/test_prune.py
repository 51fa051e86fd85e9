from __future__ import annotations

import copy
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from sousvit.errors import TrialError, UserError
from sousvit.machine import cpu_has_bf16
from sousvit.spaces.calibration.gates import learned_gates
from sousvit.spaces.calibration.repair import Moments, fold_removed, ridge_fit
from sousvit.spaces.calibration.stream import best_units, taylor_scores
from sousvit.spaces.context import Context
from sousvit.spaces.module_shape import macs_of, vit_shape
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.technique import ModelTechnique, get_technique
from sousvit.spaces.techniques.pruning.units import allocated

Make = Callable[..., nn.Module]
MakeContext = Callable[..., Context]

PRUNINGS = [
    ("prune_mlp", {"keep": 0.5}),
    ("prune_mlp", {"keep": 0.25, "importance": "taylor"}),
    ("prune_mlp", {"keep": 0.5, "importance": "magnitude", "compensate": False}),
    ("prune_heads", {"keep": 0.5}),
    ("prune_heads", {"keep": 0.25, "importance": "taylor"}),
    ("prune_heads", {"keep": 0.75, "importance": "magnitude", "compensate": False}),
    ("prune_depth", {"drop": 1}),
    ("prune_depth", {"drop": 3, "compensate": False}),
]


def run(model: nn.Module, context: Context, technique: str, /, **parameters: object) -> nn.Module:
    step = Step.make(technique, **parameters)
    handler = step.handler
    assert isinstance(handler, ModelTechnique)
    return handler.apply(model, step.config, context)


def pixels(model: nn.Module, context: Context) -> torch.Tensor:
    assert context.calibration is not None
    return context.normalise(context.calibration.images())


# The mathematics.


@pytest.mark.parametrize("intercept", [True, False])
def test_ridge_fit_is_the_least_squares_solution(intercept: bool) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(1.0, 2.0, (200, 6)), rng.normal(size=(200, 3)) + 5
    y = y + x @ rng.normal(size=(6, 3))
    moments = Moments.zeros(6, 3)
    for part in range(0, 200, 50):
        moments.add(torch.from_numpy(x[part : part + 50]), torch.from_numpy(y[part : part + 50]))
    slope, offset = ridge_fit(moments, ridge=0.1, intercept=intercept)
    # Ridge as ordinary least squares with penalty rows, on centred data where there is an intercept.
    cx, cy = (x - x.mean(0), y - y.mean(0)) if intercept else (x, y)
    penalty = np.sqrt(0.1 * (cx**2).mean() * len(x)) * np.eye(6)
    expected = np.linalg.lstsq(np.vstack([cx, penalty]), np.vstack([cy, np.zeros((6, 3))]), rcond=None)[0]
    np.testing.assert_allclose(slope.T, expected, rtol=1e-8)
    np.testing.assert_allclose(offset, y.mean(0) - x.mean(0) @ expected if intercept else np.zeros(3), atol=1e-8)


def test_folding_is_exact_where_removed_inputs_are_affine_in_kept_ones() -> None:
    torch.manual_seed(0)
    kept, removed = torch.tensor([0, 2, 5]), torch.tensor([1, 3, 4])
    x = torch.zeros(300, 6)
    x[:, kept] = torch.randn(300, 3)
    x[:, removed] = x[:, kept] @ torch.randn(3, 3) + torch.tensor([1.0, -2.0, 3.0])
    weight, bias = torch.randn(4, 6), torch.randn(4)
    moments = Moments.zeros(6)
    moments.add(x)
    new_weight, new_bias = fold_removed(weight, bias, kept, removed, moments, ridge=1e-9)
    assert new_bias is not None
    torch.testing.assert_close(x[:, kept] @ new_weight.T + new_bias, x @ weight.T + bias, rtol=1e-4, atol=1e-4)


def test_constant_inputs_fold_into_the_bias_and_wild_ones_fail_the_trial() -> None:
    moments = Moments.zeros(2)
    moments.add(torch.full((10, 2), 3.0))
    weight, bias = fold_removed(torch.ones(1, 2), torch.zeros(1), torch.tensor([0]), torch.tensor([1]), moments)
    assert weight.tolist() == [[1.0]]
    assert bias is not None and bias.tolist() == [3.0]
    moments.add(torch.full((1, 2), torch.inf))
    with pytest.raises(TrialError, match="not finite"):
        ridge_fit(moments.select(torch.tensor([0]), torch.tensor([1])))


def test_best_units_are_the_highest_scores_in_order() -> None:
    kept, removed = best_units(torch.tensor([1.0, 5.0, 5.0, 0.0, 7.0]), 3)
    assert kept.tolist() == [1, 2, 4]
    assert removed.tolist() == [0, 3]


def test_taylor_scores_are_squared_gate_derivatives(make_vit: Make, make_context: MakeContext) -> None:
    model = make_vit()
    context = make_context(model, count=6)
    layer = model.blocks[1].attn.proj
    scores = taylor_scores(model, [layer], [4], context)[0]
    expected = torch.zeros(4)
    for image, label in zip(pixels(model, context), context.calibration.labels, strict=True):
        gate = torch.ones(4, requires_grad=True)
        hook = layer.register_forward_pre_hook(lambda _, args, gate=gate: args[0] * gate.repeat_interleave(8))
        loss = nn.functional.cross_entropy(model(image[None]), label[None])
        hook.remove()
        expected += torch.autograd.grad(loss, gate)[0].square() / 6
    # Where the CPU multiplies bf16, the scores are of activations with 8 bits of mantissa.
    torch.testing.assert_close(scores.float(), expected, rtol=0.05 if cpu_has_bf16() else 1e-3, atol=1e-7)


# What pruning does to a model.


@pytest.mark.parametrize(("technique", "parameters"), PRUNINGS, ids=lambda value: str(value))
def test_every_variant_is_pruned_to_the_predicted_shape_and_loads_into_a_skeleton(
    make_vit: Make, make_context: MakeContext, skeleton: Context, variant: str, technique: str, parameters: dict
) -> None:
    base = make_vit(variant)
    shape, context = vit_shape(base), make_context(base, count=16)
    step = Step.make(technique, **parameters)
    expected = step.handler.reshape(shape, step.config)
    pruned = run(copy.deepcopy(base), context, technique, **parameters)
    assert vit_shape(pruned) == expected != shape
    assert expected.params() == sum(parameter.numel() for parameter in pruned.parameters())
    assert expected.macs() == macs_of(pruned, (shape.channels, *shape.image)) < shape.macs()
    empty = run(copy.deepcopy(base), skeleton, technique, **parameters)
    empty.load_state_dict(pruned.state_dict())
    image = torch.randn(2, shape.channels, *shape.image)
    assert torch.equal(empty(image), pruned(image))
    assert not pruned.training


@pytest.mark.parametrize(("technique", "parameters"), [("prune_mlp", {"keep": 0.25}), ("prune_heads", {"keep": 0.25})])
@pytest.mark.parametrize("importance", ["activation", "taylor", "magnitude"])
def test_dead_units_are_the_ones_removed(
    make_vit: Make, make_context: MakeContext, technique: str, parameters: dict, importance: str
) -> None:
    model = make_vit()
    with torch.no_grad():
        for block in model.blocks:  # all but a quarter, not the first ones, send nothing on
            block.mlp.fc2.weight[:, :96] = 0
            block.attn.proj.weight[:, :24] = 0
    context = make_context(model)
    before = model(pixels(model, context))
    pruned = run(model, context, technique, importance=importance, **parameters)
    torch.testing.assert_close(pruned(pixels(model, context)), before, rtol=1e-4, atol=1e-4)


def test_twin_units_cost_nothing_after_compensation(make_vit: Make, make_context: MakeContext) -> None:
    model = make_vit(mlp_ratio=0.5)  # 16 hidden units, fewer than the rows that fit them
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.fc1.weight[8:] = block.mlp.fc1.weight[:8]
            block.mlp.fc1.bias[8:] = block.mlp.fc1.bias[:8]
            block.mlp.fc2.weight[:, 8:] *= 0.1
    context = make_context(model)
    before = model(pixels(model, context))
    plain = run(copy.deepcopy(model), context, "prune_mlp", keep=0.5, importance="magnitude", compensate=False)
    repaired = run(copy.deepcopy(model), context, "prune_mlp", keep=0.5, importance="magnitude")
    error = (plain(pixels(model, context)) - before).norm()
    assert (repaired(pixels(model, context)) - before).norm() < 0.05 * error


@pytest.mark.parametrize(
    ("technique", "parameters"),
    [("prune_mlp", {"keep": 0.5}), ("prune_heads", {"keep": 0.5}), ("prune_depth", {"drop": 1})],
)
def test_compensation_brings_the_outputs_closer(
    make_vit: Make, make_context: MakeContext, technique: str, parameters: dict
) -> None:
    model = make_vit("layer_scale")
    context = make_context(model, count=256)
    errors = {}
    with torch.no_grad():
        before = model(pixels(model, context))
        for compensate in (True, False):
            pruned = run(copy.deepcopy(model), context, technique, compensate=compensate, **parameters)
            errors[compensate] = float((pruned(pixels(model, context)) - before).norm())
    assert errors[True] < errors[False]


def test_depth_drops_the_blocks_that_do_nothing(make_vit: Make, make_context: MakeContext) -> None:
    model = make_vit()
    with torch.no_grad():
        for index in (0, 2):
            for layer in (model.blocks[index].attn.proj, model.blocks[index].mlp.fc2):
                layer.weight.zero_()
                layer.bias.zero_()
    context = make_context(model)
    before, kept = model(pixels(model, context)), [model.blocks[1].norm1.weight, model.blocks[3].norm1.weight]
    pruned = run(model, context, "prune_depth", drop=2)
    assert [block.norm1.weight is weight for block, weight in zip(pruned.blocks, kept, strict=True)] == [True, True]
    torch.testing.assert_close(pruned(pixels(model, context)), before, rtol=1e-4, atol=1e-4)


def test_a_gap_that_adds_a_constant_is_repaired_exactly(make_vit: Make, make_context: MakeContext) -> None:
    model = make_vit("layer_scale")
    with torch.no_grad():
        block = model.blocks[2]
        for layer in (block.attn.proj, block.mlp.fc2):
            layer.weight.zero_()
            layer.bias.fill_(0.3)
        for index in (0, 1, 3):  # so that block 2 is the one to go
            model.blocks[index].ls1.gamma.fill_(1.0)
            model.blocks[index].ls2.gamma.fill_(1.0)
    context = make_context(model)
    before = model(pixels(model, context))
    pruned = run(model, context, "prune_depth", drop=1)
    torch.testing.assert_close(pruned(pixels(model, context)), before, rtol=1e-3, atol=1e-3)


def test_pruned_attention_is_consistent_and_trains(make_vit: Make, make_context: MakeContext) -> None:
    model = make_vit("qk_norm_no_bias")
    pruned = run(model, make_context(model), "prune_heads", keep=0.5)
    attention = pruned.blocks[0].attn
    assert (attention.num_heads, attention.head_dim, attention.attn_dim, attention.scale) == (2, 8, 16, 8**-0.5)
    assert attention.qkv.weight.shape == (48, 32) and attention.proj.weight.shape == (32, 16)
    attention.fused_attn = False
    plain = pruned(torch.ones(1, 3, 16, 16))
    attention.fused_attn = True
    torch.testing.assert_close(pruned(torch.ones(1, 3, 16, 16)), plain, rtol=1e-4, atol=1e-4)
    copied = copy.deepcopy(pruned).train()
    copied(torch.randn(2, 3, 16, 16)).sum().backward()
    assert all(parameter.grad is not None for parameter in copied.parameters())


def test_frozen_layers_stay_frozen_and_taylor_needs_no_trainable_weights(
    make_vit: Make, make_context: MakeContext
) -> None:
    model = make_vit().requires_grad_(False)
    pruned = run(model, make_context(model), "prune_mlp", keep=0.5, importance="taylor")
    assert not any(parameter.requires_grad for parameter in pruned.parameters())


@pytest.mark.parametrize("technique", ["prune_mlp", "prune_heads", "prune_depth"])
def test_a_passed_deadline_fails_the_trial(make_vit: Make, make_context: MakeContext, technique: str) -> None:
    model = make_vit()
    with pytest.raises(TrialError, match="time limit"):
        run(model, make_context(model, deadline=time.monotonic() - 1), technique)


def test_needs_choices_and_identities(make_vit: Make, skeleton: Context) -> None:
    shape = vit_shape(make_vit())
    assert get_technique("prune_heads").choices(shape)["keep"] == (0.25, 0.5, 0.75, 1.0)
    assert get_technique("prune_heads").choices(vit_shape(make_vit(num_heads=1)))["keep"] == (1.0,)
    assert get_technique("prune_heads").unmet_need(vit_shape(make_vit(num_heads=1))) == "only one head a block"
    assert get_technique("prune_depth").choices(shape)["drop"] == (0, 1, 2, 3)
    assert get_technique("prune_depth").unmet_need(vit_shape(make_vit(depth=1))) == "only one block"
    uneven = make_vit()
    uneven.blocks[0] = make_vit(num_heads=2).blocks[0]
    assert get_technique("prune_depth").unmet_need(vit_shape(uneven)) == "blocks of different widths"
    identities = [("prune_mlp", {"keep": 1.0}), ("prune_heads", {"keep": 0.9}), ("prune_depth", {"drop": 0})]
    for name, parameters in identities:
        step = Step.make(name, **parameters)
        assert step.handler.is_identity(step.config, shape)
        assert vit_shape(run(make_vit(), skeleton, name, **parameters)) == shape
    with pytest.raises(UserError, match="at least one block"):
        run(make_vit(), skeleton, "prune_depth", drop=4)


def test_a_layer_scale_counts_in_importance_across_blocks(make_vit: Make, make_context: MakeContext) -> None:
    """Units of a block that a layer scale mutes lose against those of the others."""
    model = make_vit("layer_scale")
    with torch.no_grad():
        model.blocks[1].ls2.gamma.fill_(1e-4)
    step = Step.make("prune_mlp", keep=0.5, allocation="global")
    changed = step.handler.apply(model, step.config, make_context(model))
    widths = [block.mlp.fc1.out_features for block in changed.blocks]
    assert widths[1] == 8 and min(widths[0], widths[2], widths[3]) > 40, widths


def test_learned_gates_find_the_units_that_do_nothing(make_vit: Make, make_context: MakeContext) -> None:
    model = make_vit()
    dead = torch.arange(0, 128, 2)
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.fc2.weight[:, dead] = 0
    layers = [block.mlp.fc2 for block in model.blocks]
    for gates in learned_gates(model, layers, [128] * 4, make_context(model)):
        alive = [unit for unit in range(128) if unit % 2]
        assert gates[dead].mean() < gates[alive].mean()
        assert float((gates[dead][:, None] < gates[alive][None]).float().mean()) > 0.9


def test_units_of_all_blocks_compete_for_the_same_places() -> None:
    scores = [
        torch.tensor([9.0, 8.0, 7.0, 6.0]),
        torch.tensor([1.0, 1.0, 1.0, 1.0]),
        torch.tensor([5.0, 4.0, 0.1, 0.1]),
    ]
    assert allocated(scores, [2, 2, 2], 1) == [4, 1, 1]
    assert allocated(scores, [2, 2, 2], 2) == [2, 2, 2]


def test_widths_are_multiples_of_eight(make_vit: Make) -> None:
    shape = vit_shape(make_vit())
    widths = {}
    for keep in (0.001, 0.3, 0.5, 0.99, 1.0):
        step = Step.make("prune_mlp", keep=keep)
        widths[keep] = step.handler.reshape(shape, step.config).blocks[0].mlp
    assert widths == {0.001: 8, 0.3: 40, 0.5: 64, 0.99: 128, 1.0: 128}


# Combinations.


@st.composite
def structures(draw: st.DrawFn) -> list[tuple[str, dict[str, object]]]:
    steps: list[tuple[str, dict[str, object]]] = []
    if draw(st.booleans()):
        steps.append(("patch_size", {"patch": draw(st.sampled_from([2, 4, 8]))}))
    importance = st.sampled_from(["activation", "taylor", "magnitude"])
    share = st.floats(0.01, 1.0)
    structural = [
        ("prune_depth", {"drop": draw(st.integers(0, 3))}),
        ("prune_heads", {"keep": draw(share), "importance": draw(importance)}),
        ("prune_mlp", {"keep": draw(share), "importance": draw(importance)}),
    ]
    steps += draw(st.permutations(structural))[: draw(st.integers(0, 3))]
    tokens = draw(st.sampled_from([None, "tome", "evit"]))
    if tokens is not None:
        steps.append((tokens, {"keep": draw(st.floats(0.5, 1.0))}))
    return steps


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=structures(), kind=st.sampled_from(["class_token", "average", "distilled", "layer_scale", "clip"]))
def test_any_combination_has_the_predicted_shape_and_loads_into_its_skeleton(
    make_vit: Make, make_context: MakeContext, skeleton: Context, steps: list, kind: str
) -> None:
    base = make_vit(kind)
    context = make_context(base, count=8)
    shape = vit_shape(base)
    recipe = Recipe(tuple(Step.make(name, **parameters) for name, parameters in steps))
    model, empty = copy.deepcopy(base), copy.deepcopy(base)
    try:
        expected = recipe.reshape(shape)
    except UserError:  # one block cannot merge half of four patches in one go, and the like
        return
    for step in recipe.model_steps:
        assert isinstance(step.handler, ModelTechnique)
        model = step.handler.apply(model, step.config, context)
        empty = step.handler.apply(empty, step.config, skeleton)
    assert vit_shape(model) == vit_shape(empty) == expected
    assert expected.macs() == macs_of(model, (shape.channels, *shape.image))
    empty.load_state_dict(model.state_dict())
    image = torch.randn(2, shape.channels, *shape.image)
    assert torch.equal(empty(image), model(image))
    assert recipe.canonical(shape).reshape(shape) == expected
