"""Students that detect: a compact backbone under the base's own pyramid and head."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file

from sousvit.data import Splits
from sousvit.errors import UserError
from sousvit.models.detector import head_of
from sousvit.models.load import load
from sousvit.objectives.runtimes.parity import check_parity
from sousvit.objectives.runtimes.runtime import open_session
from sousvit.spaces.builder import apply_steps, skeleton
from sousvit.spaces.context import Context
from sousvit.spaces.export.export import make_artifact
from sousvit.spaces.layers.merging import merged
from sousvit.spaces.module_shape import macs_of, vit_shape
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.tasks.task import task_of
from sousvit.spaces.technique import get_technique
from sousvit.spaces.techniques.students.convolutional import FAMILIES
from sousvit.spaces.training.loop import predict
from sousvit.spaces.training.teacher import Teacher

TIMM = "mobilenetv3_small_050"
LEARN = Step.make("distill", augmentation="zoom")


@pytest.fixture(scope="module")
def base(tiny_detection):
    return load(tiny_detection.model_spec())


@pytest.fixture(scope="module")
def splits(tiny_detection, base):
    return Splits(tiny_detection.data_spec(), base.size, base.channels)


@pytest.fixture(scope="module")
def context(base, splits):
    teacher = Teacher(base, splits.train)
    macs = vit_shape(base.module).macs()
    calibration = splits.calibration()
    return Context(
        base.normalise,
        calibration=calibration,
        train=splits.train,
        teacher=teacher,
        base_macs=macs,
    )


@pytest.mark.parametrize("model", [*FAMILIES, TIMM])
def test_a_student_predicts_at_the_bases_positions_and_costs_what_is_counted(model, base):
    step = Step.make("student", model=model, width=8) if model in FAMILIES else Step.make("student", model=model)
    recipe = Recipe((step, LEARN))
    shape = recipe.reshape(vit_shape(base.module))
    student = merged(skeleton(base, recipe))
    images = torch.zeros(2, 3, *base.size)
    assert student(images).shape == base.module(images).shape and shape.detects
    assert shape.params() == sum(parameter.numel() for parameter in student.parameters())
    assert shape.macs() == macs_of(student, (3, *base.size))
    assert shape.matrix_weights() == sum(one.numel() for one in student.parameters() if one.ndim > 1)


def test_a_student_begins_with_the_bases_head_and_learns_to_detect(base, splits, context, tmp_path):
    steps = (
        Step.make("student", model="residual", width=16),
        Step.make("distill", epochs=12, batch_size=16, augmentation="zoom", feature_weight=1.0, num_views=12),
    )
    taken = skeleton(base, Recipe(steps))
    theirs, own = head_of(base.module).fcos.state_dict(), head_of(taken).fcos.state_dict()
    assert all(torch.equal(own[name], value) for name, value in theirs.items())
    model = apply_steps(base.module, Recipe(steps), context)

    def map50(module):
        found = predict(module, splits.validation, base.normalise)
        return task_of(module).figures(module, found, splits.validation)["map50"]

    assert map50(taken) < 0.1 < 0.5 * map50(base.module) < map50(model)
    for runtime, step in (("onnxruntime", None), ("openvino", Step.make("ptq_int8", samples=8)), ("litert", None)):
        Recipe((*steps, *([step] if step else [])), runtime).reshape(vit_shape(base.module))
        folder = tmp_path / runtime
        artifact = make_artifact(model, (1, 3, *base.size), base.mean, base.std, runtime, step, context, folder)
        images = base.normalise(splits.validation.images(torch.arange(4)))
        with open_session(artifact, 1) as session:
            check_parity(session, model, images.numpy(), quantized=step is not None)


def test_a_space_of_a_detector_offers_networks_of_convolutions(base):
    choices = get_technique("student").choices(vit_shape(base.module))
    assert choices["model"] == ("none", *FAMILIES)


def test_a_backbone_of_a_local_checkpoint_brings_its_weights(base, context, tmp_path):
    torch.manual_seed(3)
    network = timm.create_model(TIMM, num_classes=1000)
    save_file(network.state_dict(), tmp_path / "backbone.safetensors")
    step = Step.make("student", model=TIMM, checkpoint=str(tmp_path / "backbone.safetensors"))
    student = step.handler.apply(base.module, step.config, context)
    own, whole = student.network.state_dict(), network.state_dict()
    assert 0 < len(own) < len(whole) and all(torch.equal(value, whole[name]) for name, value in own.items())


@pytest.mark.parametrize(
    ("step", "line"),
    [
        (Step.make("student", model="vit_64x4"), "a student that detects is a network of convolutions"),
        (Step.make("student", model="mixer_b16_224"), "a map of the stride of its base's patches"),
        (Step.make("student", model="levit_128s"), "a map of the stride of its base's patches"),
    ],
    ids=str,
)
def test_a_student_that_cannot_detect_is_one_line(step, line, base):
    with pytest.raises(UserError, match=line):
        Recipe((step, LEARN)).reshape(vit_shape(base.module))


def test_patches_that_no_network_reaches_are_one_line(base):
    from dataclasses import replace

    shape = replace(vit_shape(base.module), patch=(12, 12))
    with pytest.raises(UserError, match="patches of a power of two from 4 px on"):
        Recipe((Step.make("student", model="residual"), LEARN)).reshape(shape)
