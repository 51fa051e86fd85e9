"""Efficient attention against exact references, and models converted to it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sousvit.spaces.layers.attention import (
    focused_attention,
    focusing,
    iterative_pinv,
    nystrom_attention,
    segment_means,
    sima_attention,
)
from sousvit.spaces.module_shape import macs_of, vit_shape
from sousvit.spaces.recipe import Step


def heads(tokens=20, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, tokens, width, generator=generator) for _ in range(3)]


def test_the_iterative_inverse_is_the_pseudo_inverse():
    core = (torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0)) * 3).softmax(-1).double()
    assert torch.allclose(iterative_pinv(core, steps=30), torch.linalg.pinv(core), atol=1e-5)
    alone = iterative_pinv(core[1:2])
    assert torch.allclose(iterative_pinv(core)[1:2], alone)  # an image's result does not depend on its neighbours


def test_nystrom_with_as_many_landmarks_as_tokens_is_exact():
    q, k, v = (part.double() for part in heads(tokens=12))
    exact = F.scaled_dot_product_attention(q, k, v, scale=1.0)
    found = nystrom_attention(q, k, v, segment_means(12, 12).double(), steps=60)
    assert torch.allclose(found, exact, atol=1e-6)


def test_a_model_with_as_many_landmarks_as_tokens_is_the_softmax_model(make_vit, make_context):
    model = make_vit()
    context = make_context(model)
    images = context.normalise(context.calibration.head(4).images())
    step = Step.make("attention", kind="nystrom", landmarks=17, convert=False)
    with torch.no_grad():
        expected = model(images)
        assert torch.allclose(step.handler.apply(model, step.config, context)(images), expected, atol=1e-5)


def test_more_landmarks_are_nearer_to_softmax():
    q, k, v = heads(tokens=32)
    exact = F.scaled_dot_product_attention(q, k, v)
    errors = [
        float((nystrom_attention(q * 8**-0.5, k, v, segment_means(32, count)) - exact).norm()) for count in (2, 8, 31)
    ]
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize(("tokens", "landmarks"), [(12, 12), (65, 16), (7, 3), (5, 1)])
def test_segments_cover_every_token_once(tokens, landmarks):
    means = segment_means(tokens, landmarks)
    assert torch.allclose(means.sum(1), torch.ones(landmarks)) and ((means > 0).sum(0) == 1).all()


@pytest.mark.parametrize("tokens", [4, 20])
def test_sima_is_the_same_in_either_order(tokens):
    q, k, v = heads(tokens=tokens)
    normal_q, normal_k = (part / (part.abs().sum(2, keepdim=True) + 1e-6) for part in (q, k))
    assert torch.allclose(sima_attention(q, k, v), (normal_q @ normal_k.mT) @ v, atol=1e-5)


def test_focused_attention_is_a_weighted_mean_of_the_values():
    q, k, v = heads()
    weights = focusing(q) @ focusing(k).mT
    expected = (weights / weights.sum(-1, keepdim=True)) @ v
    assert torch.allclose(focused_attention(q, k, v), expected, atol=1e-4)
    assert torch.allclose(focusing(q).norm(dim=-1), (q.relu() + 1e-6).norm(dim=-1), rtol=1e-4)


@pytest.mark.parametrize("kind", ["nystrom", "sima", "focused"])
def test_converted_models_have_the_declared_shape(variant, kind, make_vit, make_context):
    model = make_vit(variant)
    shape = vit_shape(model)
    step = Step.make("attention", kind=kind, landmarks=4, blocks="last")
    changed = step.handler.apply(model, step.config, make_context(model))
    expected = step.handler.reshape(shape, step.config)
    assert vit_shape(changed) == expected
    assert expected.macs() == macs_of(changed, (shape.channels, *shape.image))
    assert expected.params() == sum(parameter.numel() for parameter in changed.parameters())
    assert changed(torch.randn(2, shape.channels, *shape.image)).shape == (2, 5)


@pytest.mark.parametrize("kind", ["nystrom", "sima", "focused"])
def test_the_conversion_brings_the_model_nearer(kind, make_vit, make_context):
    def error(convert):
        model = make_vit()
        context = make_context(model)
        images = context.normalise(context.calibration.images())
        before = model(images)
        step = Step.make("attention", kind=kind, landmarks=4, convert=convert)
        return float((step.handler.apply(model, step.config, context)(images) - before).norm())

    assert error(True) < error(False)
