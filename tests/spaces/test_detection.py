"""Techniques, losses and recovery on a detector: its backbone is compressed, its head and positions stay."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sousvit.cache import TensorCache
from sousvit.data import Splits
from sousvit.errors import UserError
from sousvit.models.detector import EXTRA, head_of
from sousvit.models.load import create, load
from sousvit.objectives.runtimes.parity import check_parity
from sousvit.objectives.runtimes.runtime import open_session
from sousvit.spaces.builder import apply_steps, skeleton
from sousvit.spaces.calibration.quantize import sensitive_parts
from sousvit.spaces.context import Context
from sousvit.spaces.export.export import make_artifact
from sousvit.spaces.module_shape import macs_of, vit_shape
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.shape import read_shape
from sousvit.spaces.space import make_space, read_space
from sousvit.spaces.tasks.detection import dense_distance
from sousvit.spaces.tasks.task import task_of
from sousvit.spaces.technique import techniques
from sousvit.spaces.techniques.quantization.ptq_int8 import quantizable_parts
from sousvit.spaces.techniques.synthesis.config import SynthesisConfig
from sousvit.spaces.techniques.synthesis.select import answers, truth_of
from sousvit.spaces.techniques.synthesis.synthesiser import Synthesiser
from sousvit.spaces.training.base import read_training, train_base
from sousvit.spaces.training.loop import fit, predict
from sousvit.spaces.training.plan import TrainingPlan
from sousvit.spaces.training.teacher import Teacher
from sousvit.spaces.training.transfer import feature_loss, represent
from sousvit.specs import ModelSpec

STEPS = [
    Step.make("patch_size", patch=16),
    Step.make("prune_depth", drop=1),
    Step.make("prune_embed", keep=0.75),
    Step.make("prune_head_dim", keep=0.5),
    Step.make("low_rank", keep=0.5),
    Step.make("low_rank", keep=0.6, layers="all", allocation="sensitivity"),
    Step.make("prune_heads", keep=0.5, importance="taylor"),
    Step.make("prune_mlp", keep=0.5, importance="gates"),
    Step.make("prune_mlp", keep=0.5, allocation="global"),
    Step.make("attention", kind="nystrom", landmarks=8),
    Step.make("attention", kind="focused", blocks="first"),
    Step.make("sparsify"),
]
DEPLOYMENTS = [
    ("onnxruntime", Step.make("int8_dynamic")),
    ("onnxruntime", Step.make("static_int8", weights="int7", float_blocks=1)),
    ("onnxruntime", Step.make("weight_only")),
    ("openvino", None),
    ("openvino", Step.make("static_int8", weights="int7")),
    ("openvino", Step.make("ptq_int8", samples=8)),
    ("openvino", Step.make("ptq_int8", samples=8, float_parts=2)),
    ("openvino", Step.make("fp16")),
    ("litert", Step.make("litert_dynamic")),
    ("torch", None),
]


@pytest.fixture(scope="module")
def base(tiny_detection):
    return load(tiny_detection.model_spec())


@pytest.fixture(scope="module")
def splits(tiny_detection, base):
    return Splits(tiny_detection.data_spec(), base.size, base.channels)


@pytest.fixture(scope="module")
def context(base, splits):
    return Context(
        base.normalise, calibration=splits.calibration(), train=splits.train, teacher=Teacher(base, splits.train)
    )


def map50(model, splits, base):
    return task_of(model).figures(model, predict(model, splits.validation, base.normalise), splits.validation)["map50"]


def check_exact(model, expected):
    shape = vit_shape(model)
    assert shape == expected
    assert shape.params() == sum(parameter.numel() for parameter in model.parameters())
    assert shape.macs() == macs_of(model, (3, 48, 64))


def test_the_base_is_read_exactly(base):
    shape = vit_shape(base.module)
    check_exact(base.module, shape)
    assert shape.detects and shape.head_macs == head_of(base.module).dense_macs > 0
    matrices = [parameter for parameter in base.module.parameters() if parameter.ndim > 1]
    positions = base.module.pos_embed.numel()
    assert shape.matrix_weights() == sum(parameter.numel() for parameter in matrices) - positions


def test_shapes_survive_their_plain_form(base):
    from dataclasses import asdict

    shape = vit_shape(base.module)
    assert read_shape(asdict(shape)) == shape


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_every_model_technique_keeps_the_positions_and_is_counted_exactly(step, base, splits, context, tmp_path):
    recipe = Recipe((step,))
    expected = recipe.reshape(vit_shape(base.module))
    images = base.normalise(splits.validation.images(torch.arange(4)))
    before = base.module(images)
    model = apply_steps(base.module, recipe, context)
    assert model(images).shape == before.shape
    if not step.handler.shapes_by_data(step.config):
        check_exact(model, expected)
        check_exact(skeleton(base, recipe), expected)
    artifact = make_artifact(model, (1, 3, 48, 64), base.mean, base.std, "onnxruntime", None, context, tmp_path / "a")
    with open_session(artifact, 1) as session:
        check_parity(session, model, images.numpy(), quantized=False)


@pytest.mark.parametrize(("runtime", "step"), DEPLOYMENTS, ids=str)
def test_every_deployment_agrees(runtime, step, base, splits, context, tmp_path, shared_graphs):
    images = base.normalise(splits.validation.images(torch.arange(4))).numpy()
    artifact = make_artifact(base.module, (1, 3, 48, 64), base.mean, base.std, runtime, step, context, tmp_path / "a")
    with open_session(artifact, 1) as session:
        found = check_parity(session, base.module, images, quantized=step is not None)
    assert found.relative < 0.05


def test_what_cannot_restore_the_map_is_left_out_with_a_reason(base):
    shape = vit_shape(base.module)
    misfits = {one.name for one in techniques() if one.misfit(shape) is not None}
    assert misfits == {"distill_token", "drop_patches", "tome", "evit", "elastic"}
    space, left_out = make_space(read_space("default"), shape, ("onnxruntime", "openvino"))
    assert {"tome", "evit", "synthesize", "litert_dynamic"} == set(left_out) and "all tokens" in left_out["tome"]
    parts = {option.technique: option.values for option in space.options()}
    assert parts["distill"]["augmentation"] == ("zoom",) and parts["ptq_int8"]["float_parts"] == (0, 1, 2, 4)


def test_calibrated_pruning_hurts_less_than_blind_pruning(base, splits, context):
    blind = Step.make("prune_mlp", keep=0.25, importance="magnitude", compensate=False)
    repaired = Step.make("prune_mlp", keep=0.25, importance="taylor")
    images = base.normalise(splits.validation.images(torch.arange(16)))
    with torch.no_grad():
        target = base.module(images)
        harms = [
            float(dense_distance(apply_steps(base.module, Recipe((step,)), context)(images), target))
            for step in (blind, repaired)
        ]
    assert harms[1] < harms[0]


def test_the_most_sensitive_parts_stay_float(base, context):
    parts = quantizable_parts(base.module)
    before = copy.deepcopy(base.module.state_dict())
    order = sensitive_parts(base.module, parts, context)
    assert sorted(order) == sorted(parts) and any(name.startswith("/head/head") for name in parts)
    assert all(torch.equal(value, before[name]) for name, value in base.module.state_dict().items())
    noisy = copy.deepcopy(base.module)
    with torch.no_grad():  # one output channel of the box branch dwarfs the others: its activations round coarsely
        noisy.head.fcos.head.regression_head.conv[0].weight[0] *= 3000
        noisy.head.fcos.head.regression_head.conv[1].weight[0] /= 3000
    names = sensitive_parts(noisy, quantizable_parts(noisy), context)
    assert names[0] == "/head/head/regression_head"


def test_distance_of_dense_predictions():
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(2, 30, 3 + EXTRA, generator=generator)
    reference[..., 3:7] = reference[..., 3:7].abs() + 0.1
    assert float(dense_distance(reference, reference)) == pytest.approx(0, abs=1e-5)
    classes, boxes, centres = reference.clone(), reference.clone(), reference.clone()
    classes[..., :3] += 1
    boxes[..., 3:7] *= 1.5
    centres[..., 7] += 1
    assert all(float(dense_distance(one, reference)) > 0.01 for one in (classes, boxes, centres))


@given(seed=st.integers(0, 100))
def test_distance_looks_where_the_reference_sees_something(seed):
    generator = torch.Generator().manual_seed(seed)
    reference = torch.randn(1, 20, 2 + EXTRA, generator=generator)
    reference[..., 2:6] = reference[..., 2:6].abs() + 0.1
    reference[0, :10, :2], reference[0, 10:, :2] = 4.0, -8.0
    near, far = reference.clone(), reference.clone()
    near[0, :10, 2:6] *= 2
    far[0, 10:, 2:6] *= 2
    assert dense_distance(far, reference) < 0.01 * dense_distance(near, reference)


def plan(**changes):
    values = {"epochs": 2, "learning_rate": 2e-3, "batch_size": 16, "augmentation": "zoom", "num_views": 2}
    return TrainingPlan(**{**values, "precision": "fp32", **changes})


@pytest.mark.parametrize("weights", [{"soft_weight": 1.0}, {"hard_weight": 1.0}, {"soft_weight": 0.5}])
def test_a_student_learns_from_the_teacher(weights, base, splits, context):
    torch.manual_seed(1)
    student, teacher = create(base.spec), context.teacher
    assert map50(student, splits, base) < 0.1
    thorough = plan(**weights, epochs=6, learning_rate=2e-2, optimizer="muon", batch_size=8)
    fit(student, splits.train, base.normalise, thorough, lambda view: teacher("zoom", 0, view))
    assert map50(student, splits, base) > 0.4


def test_distill_with_features_and_attention(base, splits, context):
    images = base.normalise(splits.validation.images(torch.arange(16)))
    target, gaps = represent(base.module, images).pooled, []
    for weight in (0.0, 3.0):
        config = {"epochs": 3, "augmentation": "zoom", "batch_size": 16, "num_views": 2, "learning_rate": 2e-3}
        step = Step.make("distill", **config, feature_weight=weight, attention_weight=weight)
        model = apply_steps(base.module, Recipe((Step.make("prune_mlp", keep=0.125, compensate=False), step)), context)
        gaps.append(float(feature_loss(represent(model, images).pooled.detach(), target.detach())))
    assert gaps[1] < 0.8 * gaps[0]


def test_the_teacher_keeps_dense_answers_and_maps(base, splits, tmp_path):
    cache = TensorCache(tmp_path, 1e9)
    train = splits.train.head(8)
    teacher = Teacher(base, train, cache)
    answers, (maps, strength) = teacher("zoom", 0, 1), teacher.features("zoom", 0, 1)
    head = head_of(base.module)
    assert answers.shape == (8, len(head.anchors), 2 + EXTRA)
    assert maps.shape == (8, 32, 6, 8) and strength.shape == (8, 6, 8) and teacher.feature_width == 32
    again = Teacher(base, train, cache)
    assert torch.equal(again("zoom", 0, 1), answers) and again.seconds == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"augmentation": "mixup"}, "moves boxes"), ({"label_smoothing": 0.1}, "label smoothing")],
)
def test_plans_that_make_no_sense_for_boxes(changes, words, base, splits):
    with pytest.raises(UserError, match=words):
        fit(copy.deepcopy(base.module), splits.train, base.normalise, plan(**changes))


def test_training_has_no_label_smoothing_unless_it_is_asked_for(tiny_detection, tmp_path):
    values = {"model": {"checkpoint": str(tiny_detection.root / "base.safetensors")}, "data": tiny_detection.data}
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump({**values, "training": {"augmentation": "flip", "learning_rate": 1e-4}}))
    lines = []
    description = train_base(read_training(path, epochs=1), tmp_path / "out.safetensors", say=lines.append)
    assert description["test_map50"] > 0.3 and description["detector"]["strides"] == [8, 16]
    assert lines == ["96 training and 32 validation images"] and description["class_names"] == ["bright", "dark"]
    path.write_text(yaml.safe_dump({**values, "training": {"label_smoothing": 0.1, "augmentation": "flip"}}))
    with pytest.raises(UserError, match="label smoothing"):
        train_base(read_training(path), tmp_path / "out.safetensors", say=lines.append)


def test_fine_tuning_keeps_the_order_of_the_bases_classes(tiny_detection, tmp_path):
    base = {"checkpoint": str(tiny_detection.root / "base.safetensors")}
    assert load(tiny_detection.model_spec()).class_names == ("bright", "dark")

    def train(classes, voc):
        data = {**tiny_detection.data, "root": str(voc), "classes": classes}
        training = {"augmentation": "none", "epochs": 1, "learning_rate": 1e-9}
        path = tmp_path / "train.yaml"
        path.write_text(yaml.safe_dump({"model": base, "data": data, "training": training}))
        train_base(read_training(path), tmp_path / "out.safetensors", say=lines.append)
        return load(ModelSpec(checkpoint=str(tmp_path / "out.safetensors")).resolved(tmp_path)).class_names

    lines: list[str] = []
    assert train(["dark", "bright"], tiny_detection.root / "voc") == ("bright", "dark")
    assert any("labels were changed to those of the checkpoint's classes" in line for line in lines)
    lines.clear()
    other = shutil.copytree(tiny_detection.root / "voc", tmp_path / "voc")
    for file in (other / "Annotations").iterdir():
        file.write_text(file.read_text().replace("bright", "shiny"))
    assert train(["dark", "shiny"], other) == ("dark", "shiny")
    assert any("though dark stands for bright" in line for line in lines), lines


def test_recipes_that_lose_the_boxes_are_refused(base):
    recipe = Recipe((Step.make("prune_mlp"), Step.make("distill", augmentation="cutmix")))
    with pytest.raises(UserError, match="moves boxes"):
        recipe.reshape(vit_shape(base.module))


def test_a_detector_has_no_temperature(base):
    shape = vit_shape(base.module)
    hot, cold = (
        Recipe((Step.make("prune_mlp"), Step.make("distill", temperature=t, augmentation="zoom"))) for t in (8.0, 2.0)
    )
    assert hot.canonical(shape) == cold.canonical(shape)


def test_a_detector_needs_boxes(base, tiny_project):
    data = replace_size(tiny_project, base)
    with pytest.raises(UserError, match="images with boxes"):
        fit(copy.deepcopy(base.module), data, base.normalise, plan())


def replace_size(project, base):
    return Splits(project.data_spec(), base.size, base.channels).train.head(32)


def test_qat_trains_a_detectors_backbone(base, splits, context, tmp_path):
    step = Step.make("qat", epochs=1, augmentation="zoom", batch_size=16, weights="int7", num_views=2)
    model = apply_steps(base.module, Recipe((step,)), replace(context, fidelity=0.5))
    assert map50(model, splits, base) > 0.5
    artifact = make_artifact(model, (1, 3, 48, 64), base.mean, base.std, "onnxruntime", None, context, tmp_path / "a")
    images = base.normalise(splits.validation.images(torch.arange(4))).numpy()
    with open_session(artifact, 1) as session:
        assert check_parity(session, model, images, quantized=True).relative < 0.05


def test_what_the_base_finds_stands_for_labels(tiny_detection):
    base = load(tiny_detection.model_spec())
    images, task = Splits(tiny_detection.data_spec(), base.size, 3).train.head(12), task_of(base.module)
    truth = truth_of(base, images.images())
    outputs = answers(base, images.images())
    labelled = task.labelled(images, truth)
    assert task.figures(base.module, outputs, labelled)["map50"] == pytest.approx(1)
    assert task.class_scores(outputs).shape == (12, 2) and float(task.class_scores(outputs).max()) <= 0
    assert task.class_logits(outputs).shape == (12, 2 * outputs.shape[1])
    with pytest.raises(UserError, match="the base must find something"):
        task.labelled(images, {**truth, "labels": torch.full_like(truth["labels"], -1)})


@pytest.mark.parametrize("method", ["scenes", "inversion", "generator"])
def test_images_for_a_detector_hold_what_it_finds(method, tiny_detection):
    base = load(tiny_detection.model_spec())
    config = SynthesisConfig(method=method, images=16, steps=None if method == "scenes" else 2)
    made = Synthesiser(base).made(config)
    found = made.targets(torch.arange(16))
    assert sum(map(len, found)) >= 8
    assert {label for one in found for label in one.labels.tolist()} == {0, 1}
