"""Feature and attention transfer, distillation from stored features, repeated augmentation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sousvit.cache import TensorCache
from sousvit.models.load import LoadedModel
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.recipe import Step
from sousvit.spaces.training.loop import fit
from sousvit.spaces.training.plan import TrainingPlan
from sousvit.spaces.training.teacher import Teacher
from sousvit.spaces.training.transfer import Transfer, attention_loss, feature_loss, represent
from sousvit.specs import ModelSpec


def test_equal_representations_cost_nothing_and_scale_does_not_matter():
    features, maps = torch.randn(4, 16), torch.rand(4, 4, 4)
    assert float(feature_loss(features * 3 + 1, features)) == pytest.approx(0, abs=1e-5)
    assert float(attention_loss(maps * 7, maps)) == pytest.approx(0, abs=1e-6)
    assert float(feature_loss(features, -features)) == pytest.approx(4, rel=0.1)


def test_maps_of_different_grids_meet_on_the_smaller_one():
    fine = torch.rand(3, 8, 8)
    coarse = fine.unflatten(1, (4, 2)).unflatten(3, (4, 2)).mean((2, 4))
    assert float(attention_loss(coarse, fine)) == pytest.approx(0, abs=1e-6)
    assert float(attention_loss(fine, coarse)) == pytest.approx(0, abs=1e-6)


def test_represent_gives_the_models_own_logits(variant, make_vit):
    model = make_vit(variant)
    images = torch.randn(3, model.patch_embed.proj.in_channels, *model.patch_embed.img_size)
    with torch.no_grad():
        seen = represent(model, images)
        assert torch.allclose(seen.logits, model(images), atol=1e-5)
    assert seen.pooled.shape == (3, model.num_features)
    assert seen.strength.shape == (3, *model.patch_embed.grid_size)


def test_without_a_grid_of_patches_there_is_no_map(make_vit, make_context):
    model = make_vit()
    step = Step.make("tome", keep=0.5)
    merged = step.handler.apply(model, step.config, make_context(model))
    assert represent(merged, torch.randn(2, 3, 16, 16)).strength is None


@pytest.fixture
def loaded(make_vit) -> LoadedModel:
    module = make_vit()
    spec = ModelSpec(name="vit_tiny_patch16_224")
    return LoadedModel(module, spec, (16, 16), 3, (0.5,) * 3, (0.25,) * 3, 5, "tiny")


@pytest.mark.parametrize("kind", ["features", "logits"])
def test_features_are_stored_and_a_damaged_file_is_computed_again(loaded, make_context, tmp_path, kind):
    train = make_context(loaded.module).calibration

    def ask(teacher):
        return teacher.features("mixup", 1, 2)[0] if kind == "features" else teacher("mixup", 1, 2)

    first = ask(Teacher(loaded, train, TensorCache(tmp_path)))
    files = list(tmp_path.rglob("*.safetensors"))
    assert len(files) == 1
    quiet = Teacher(loaded, train, TensorCache(tmp_path), forward=lambda images: 1 / 0)
    assert torch.equal(ask(quiet), first) and quiet.seconds == 0
    files[0].write_bytes(b"damaged")
    assert torch.allclose(ask(Teacher(loaded, train, TensorCache(tmp_path))).float(), first.float(), atol=0.02)


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_training_brings_the_student_nearer_to_the_teacher(loaded, make_vit, make_context, weights):
    train = make_context(loaded.module).calibration
    teacher = Teacher(loaded, train)
    student = make_vit(seed=1, embed_dim=16)

    def features(view):
        return teacher.features("none", 0, view)

    transfer = Transfer(features, 16, teacher.feature_width, *weights)
    pooled, strength = features(0)

    def distance():
        with torch.no_grad():
            seen = represent(student.eval(), loaded.normalise(train.images()))
            if weights[0]:
                return float(feature_loss(transfer.projection(seen.pooled), pooled.float()))
            return float(attention_loss(seen.strength, strength.float()))

    before = distance()
    plan = TrainingPlan(
        epochs=10, learning_rate=3e-3, batch_size=32, augmentation="none", num_views=1, precision="fp32"
    )
    fit(student, train, loaded.normalise, plan, transfer=transfer)
    assert distance() < 0.8 * before
    assert student(loaded.normalise(train.images())).shape == (64, 5)


def test_repeated_augmentation_shows_an_image_several_times_in_a_batch(loaded, make_vit, make_context):
    train = make_context(loaded.module).calibration
    asked, sizes = [], []

    def teacher(view):
        asked.append(view)
        return torch.zeros(len(train), 5)

    def normalise(images):
        sizes.append(len(images))
        return loaded.normalise(images)

    plan = TrainingPlan(epochs=2, batch_size=32, repeats=2, soft_weight=0.5, precision="fp32", num_views=3)
    fit(make_vit(), train, normalise, plan, teacher)
    assert asked == [0, 1, 2, 0] and sizes == [32] * 4


@pytest.mark.parametrize("policy", ["randaugment", "mixup", "cutmix"])
def test_every_augmentation_trains(loaded, make_vit, make_context, policy):
    train = make_context(loaded.module).calibration
    student = make_vit()
    before = student.head.weight.clone()
    plan = TrainingPlan(epochs=1, batch_size=32, augmentation=policy, label_smoothing=0.1, precision="fp32")
    fit(student, train, loaded.normalise, plan)
    teacher = Teacher(loaded, train)
    fit(student, train, loaded.normalise, replace(plan, soft_weight=0.5), lambda view: teacher(policy, 0, view))
    assert not torch.equal(student.head.weight, before)


def test_the_distill_technique_takes_all_of_them(loaded, make_vit, make_context):
    context = make_context(loaded.module)
    context = replace(context, train=context.calibration, teacher=Teacher(loaded, context.calibration))
    step = Step.make("distill", epochs=1, feature_weight=0.5, attention_weight=0.5, repeats=2, augmentation="cutmix")
    trained = step.handler.apply(make_vit(seed=2, embed_dim=16), step.config, context)
    assert vit_shape(trained).embed_dim == 16
