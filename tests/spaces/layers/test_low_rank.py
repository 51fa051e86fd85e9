"""Low rank layers and narrower heads against independent references."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sousvit.spaces.calibration.repair import Moments
from sousvit.spaces.layers.low_rank import LowRankLinear, energies, factor, factored, rank_of
from sousvit.spaces.module_shape import macs_of, vit_shape
from sousvit.spaces.recipe import Step
from sousvit.spaces.techniques.pruning.ranks import layers_of


def correlated(rows: int = 400, inputs: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(inputs, inputs, generator=generator) * torch.logspace(0, -2, inputs)
    return torch.randn(rows, inputs, generator=generator) @ mixing + 0.5


def test_plain_svd_reaches_the_bound_of_eckart_and_young():
    weight = torch.randn(16, 24, generator=torch.Generator().manual_seed(1)).double()
    down, up = factor(weight, 5, None)
    tail = torch.linalg.svdvals(weight)[5:].square().sum()
    assert float((up @ down - weight).square().sum()) == pytest.approx(float(tail), rel=1e-9)


def test_whitened_svd_is_the_best_in_output():
    x = correlated().double()
    weight = torch.randn(16, 24, generator=torch.Generator().manual_seed(1)).double()
    moment = x.T @ x / len(x)

    def loss(down, up):
        return float((x @ (weight - up @ down).T).square().mean())

    whitened, plain = loss(*factor(weight, 5, moment)), loss(*factor(weight, 5, None))
    # The best rank-5 output is the truncated SVD of the output itself.
    output = x @ weight.T
    bound = float(torch.linalg.svdvals(output)[5:].square().sum() / output.numel())
    assert whitened == pytest.approx(bound, rel=1e-3) and whitened < 0.9 * plain


def test_the_bias_takes_the_share_of_the_mean():
    x = correlated()
    linear = nn.Linear(24, 16)
    moments = Moments.zeros(24)
    moments.add(x)
    layer = factored(linear, 4, moments)
    assert isinstance(layer, LowRankLinear) and layer.rank == 4
    error = layer(x) - linear(x)
    assert float(error.mean(0).abs().max()) < 1e-4
    full = factored(linear, 16, moments)
    assert torch.allclose(full(x), linear(x), atol=1e-3)


def test_energies_are_what_each_rank_adds():
    x = correlated().double()
    weight = torch.randn(16, 24, generator=torch.Generator().manual_seed(1)).double()
    moment = x.T @ x / len(x)
    total = float((x @ weight.T).square().sum(1).mean())
    assert float(energies(weight, moment).sum()) == pytest.approx(total, rel=1e-3)


def test_no_block_gets_a_rank_that_costs_more_than_the_full_layer(make_vit, make_context):
    model = make_vit(embed_dim=96, num_heads=4)
    context = make_context(model)
    with torch.no_grad():  # all of the last block's outputs matter, none of the first's
        model.blocks[0].mlp.fc1.weight.mul_(1e-3)
        model.blocks[0].mlp.fc1.weight[1:] = 0
    step = Step.make("low_rank", keep=0.8, layers="mlp", allocation="sensitivity")
    changed = step.handler.apply(model, step.config, context)
    for block in vit_shape(changed).blocks:
        for rank, (inputs, outputs) in zip(block.ranks[2:], ((96, block.mlp), (block.mlp, 96)), strict=True):
            assert rank * (inputs + outputs) < inputs * outputs


@pytest.mark.parametrize("layers", ["all", "attention", "mlp"])
def test_factored_models_have_the_declared_shape(variant, layers, make_vit, make_context):
    model = make_vit(variant, embed_dim=64)
    shape = vit_shape(model)
    step = Step.make("low_rank", keep=0.5, layers=layers)
    small = step.handler.apply(model, step.config, make_context(model))
    expected = step.handler.reshape(shape, step.config)
    assert vit_shape(small) == expected
    assert expected.macs() == macs_of(small, (shape.channels, *shape.image)) < shape.macs()
    assert expected.params() == sum(parameter.numel() for parameter in small.parameters()) < shape.params()


def test_sensitivity_moves_ranks_and_keeps_their_sum(make_vit, make_context):
    model = make_vit(embed_dim=64)
    with torch.no_grad():  # the MLP of block 1 has two directions only: it needs few ranks
        weight = model.blocks[1].mlp.fc1.weight
        weight.copy_(weight[:, :2] @ weight[:2, :])
    shape = vit_shape(model)
    step = Step.make("low_rank", keep=0.6, allocation="sensitivity")
    context = make_context(model)
    small = step.handler.apply(model, step.config, context)
    ranks = [tuple(map(rank_of, layers_of(block))) for block in small.blocks]
    uniform = [block.ranks for block in step.handler.reshape(shape, step.config).blocks]
    for place in range(4):
        assert sum(row[place] for row in ranks) == sum(row[place] for row in uniform)
    assert ranks[1][2] == min(row[2] for row in ranks) < uniform[1][2]
    assert vit_shape(small).macs() == step.handler.reshape(shape, step.config).macs()
    assert context.decisions["low_rank"] == [list(row) for row in ranks]


def test_narrow_heads_are_exact_where_the_heads_have_fewer_directions(make_vit, make_context):
    model = make_vit(embed_dim=64, num_heads=4)
    with torch.no_grad():
        for block in model.blocks:
            qkv = block.attn.qkv.weight.view(3, 4, 16, 64)
            qkv[:, :, 8:] = 0  # half of every head's channels are silent
            block.attn.qkv.bias.view(3, 4, 16)[:, :, 8:] = 0
    images = torch.randn(3, 3, 16, 16)
    shape, before = vit_shape(model), model(images)
    step = Step.make("prune_head_dim", keep=0.5)
    small = step.handler.apply(model, step.config, make_context(model))
    assert vit_shape(small) == step.handler.reshape(shape, step.config)
    assert small.blocks[0].attn.head_dim == 8
    assert torch.allclose(small(images), before, atol=2e-3)
    assert vit_shape(small).macs() == macs_of(small, (3, 16, 16)) < shape.macs()


def test_narrow_heads_from_data_beat_the_first_channels(make_vit, make_context, skeleton):
    images = torch.randn(32, 3, 16, 16)
    step = Step.make("prune_head_dim", keep=0.5)

    def error(context):
        model = make_vit(embed_dim=64, num_heads=4)
        before = model(images)
        small = step.handler.apply(model, step.config, context(model))
        return float((small(images) - before).norm() / before.norm())

    assert error(make_context) < 0.8 * error(lambda model: skeleton)
