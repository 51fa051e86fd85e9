"""Single weights set to zero: which ones, and that nothing after it fills them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from sousvit.spaces.layers.quantized import QuantLinear
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.space import make_space, read_space
from sousvit.spaces.techniques.pruning.sparsify import SparsifyConfig, chosen


def blocks_zero_share(model: nn.Module) -> list[float]:
    layers = [layer for layer in model.blocks.modules() if isinstance(layer, nn.Linear | QuantLinear)]
    return [float((layer.weight == 0).float().mean()) for layer in layers]


def test_the_highest_scores_of_every_row_stay():
    scores = torch.tensor([[1.0, 4.0, 3.0, 2.0, 8.0, 7.0, 6.0, 5.0], [8, 7, 6, 5, 4, 3, 2, 1]])
    kept = chosen(scores, SparsifyConfig(sparsity=0.5))
    assert kept.tolist() == [[False] * 4 + [True] * 4, [True] * 4 + [False] * 4]
    kept = chosen(scores, SparsifyConfig(pattern="2:4"))
    best = [True, True, False, False]
    assert kept.tolist() == [[False, True, True, False, *best], [*best, *best]]


def test_wanda_scores_a_weight_by_its_size_times_the_norm_of_its_input(make_vit, make_context):
    model = make_vit()
    context = make_context(model)
    layer = model.blocks[0].mlp.fc1
    weight = layer.weight.detach().clone()
    inputs = []
    handle = layer.register_forward_pre_hook(lambda module, given: inputs.append(given[0].flatten(0, 1)))
    Step.make("sparsify", sparsity=0.5).handler.apply(model, SparsifyConfig(sparsity=0.5), context)
    handle.remove()
    # One pass over the block, as it was, feeds all of its layers; a second one leaves it.
    first, _ = inputs
    expected = chosen(weight.abs() * first.square().mean(0).sqrt(), SparsifyConfig(sparsity=0.5))
    kept = layer.weight != 0
    assert float((kept == expected).float().mean()) > 0.99
    assert not torch.equal(kept, chosen(weight.abs(), SparsifyConfig(sparsity=0.5)))


@pytest.mark.parametrize("recovery", ["distill", "qat"])
def test_training_keeps_the_zeros(recovery, make_vit, make_context):
    model = make_vit()
    context = make_context(model)
    context = replace(context, train=context.calibration.head(32))
    for step in (Step.make("sparsify"), Step.make(recovery, epochs=4, soft_weight=0.0, batch_size=8)):
        before = [layer.clone() for layer in model.blocks.parameters()]
        model = step.handler.apply(model, step.config, context)
    assert min(blocks_zero_share(model)) >= 0.49
    assert any(
        old.shape == new.shape and not torch.equal(old, new)
        for old, new in zip(before, model.blocks.parameters(), strict=False)
    )


def test_it_acts_after_everything_that_would_fill_its_zeros(make_vit):
    shape = vit_shape(make_vit())
    space = make_space(read_space("all"), shape, ("onnxruntime",))[0]
    order = [option.technique for option in space.options()]
    assert order.index("sparsify") > max(order.index(name) for name in ("low_rank", "prune_mlp", "attention", "tome"))
    with pytest.raises(ValueError, match="steps go images, base, input"):
        Recipe((Step.make("sparsify"), Step.make("low_rank")))
