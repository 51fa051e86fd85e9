"""Interpolation: which weights between the start and the end of a recovery are kept."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from sousvit.models.load import LoadedModel
from sousvit.spaces.context import Context
from sousvit.spaces.recipe import Step
from sousvit.spaces.tasks.task import task_of
from sousvit.spaces.techniques.recovery.interpolation import SHARES, between, settle, weights_of
from sousvit.spaces.training.teacher import Teacher
from sousvit.specs import ModelSpec


class Classifier(nn.Module):
    """Logits ``[B, 5]`` of images ``[B, 3, 4, 4]``."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Linear(48, 5)
        self.register_buffer("count", torch.tensor(seed))

    def forward(self, images):
        return self.layer(images.flatten(1))


class Says:
    """A teacher that is some model."""

    def __init__(self, model, normalise):
        self.model, self.normalise = model, normalise

    def on(self, images):
        with torch.no_grad():
            return self.model(self.normalise(images.images()))


def test_weights_lie_on_the_way_and_counters_are_the_ends():
    start, end = weights_of(Classifier(1)), weights_of(Classifier(2))
    assert all(torch.equal(between(start, end, 1.0)[name], end[name]) for name in end)
    assert torch.equal(between(start, end, 0.0)["layer.weight"], start["layer.weight"])
    middle = between(start, end, 0.5)
    assert torch.allclose(middle["layer.weight"], (start["layer.weight"] + end["layer.weight"]) / 2)
    assert int(middle["count"]) == 2


@pytest.mark.parametrize("share", SHARES)
def test_what_is_closest_to_the_base_is_kept(share, make_vit, make_context):
    context = make_context(make_vit(img_size=4), 48, (4, 4))
    start, end, base = Classifier(1), Classifier(2), Classifier(3)
    base.load_state_dict(between(weights_of(start), weights_of(end), share))
    model = copy.deepcopy(end)
    found = settle(model, weights_of(start), replace(context, teacher=Says(base, context.normalise)))
    assert found == share
    assert torch.allclose(model.layer.weight, base.layer.weight)


def test_without_calibration_images_the_end_stays():
    model = Classifier(2)
    before = weights_of(model)
    assert settle(model, weights_of(Classifier(1)), Context(lambda images: images.float())) == 1.0
    assert torch.equal(weights_of(model)["layer.weight"], before["layer.weight"])


@pytest.mark.parametrize("interpolate", [True, False])
def test_a_recovery_that_harms_is_taken_back(interpolate, make_vit, make_context):
    base = LoadedModel(make_vit(), ModelSpec(name="tiny"), (16, 16), 3, (0.5,) * 3, (0.25,) * 3, 5, "tiny")
    context = make_context(base.module, 48)
    train = context.calibration.head(32)
    context = replace(context, train=train, teacher=Teacher(base, train))
    pruned = Step.make("prune_mlp", keep=0.75)
    model = pruned.handler.apply(copy.deepcopy(base.module), pruned.config, context).eval()
    before = _distance(model, context)
    step = Step.make("distill", epochs=8, learning_rate=0.5, batch_size=8, interpolate=interpolate)
    after = _distance(step.handler.apply(model, step.config, context).eval(), context)
    assert after <= before + 1e-6 if interpolate else after > before


@torch.no_grad()
def _distance(model, context):
    images = context.calibration
    output = model(context.normalise(images.images()))
    return float(task_of(model).divergence(output, context.teacher.on(images)))
