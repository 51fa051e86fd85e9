from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from sousvit.data import DataSpec, ImageSet, Splits
from sousvit.data.augment import View
from sousvit.data.formats.idx import IdxSource, write_idx
from sousvit.errors import TrainingDivergedError, TrialError, UserError
from sousvit.models.checkpoints.safetensors_file import read_checkpoint_metadata
from sousvit.models.load import create, load, normalise
from sousvit.spaces.images import open_splits
from sousvit.spaces.tasks.classification import distillation_loss
from sousvit.spaces.training.base import TrainingSpec, TrainSpec, figures_of, read_training, train_base
from sousvit.spaces.training.loop import fit, predict
from sousvit.spaces.training.plan import TrainingPlan
from sousvit.specs import ModelSpec

ARGS = {
    "img_size": 8,
    "patch_size": 4,
    "in_chans": 1,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 2,
    "num_classes": 3,
    "class_token": False,
    "global_pool": "avg",
}
PLAN = TrainingPlan(epochs=8, learning_rate=3e-3, batch_size=32, augmentation="none", precision="fp32")


def scale(images):
    return normalise(images, (0.5,), (0.25,))


def write_toy(folder, name, count, seed):
    """Three classes: rows, columns or nothing under noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count).astype(np.uint8)
    images = rng.integers(0, 120, (count, 8, 8))
    for label, part in enumerate((np.s_[:, ::2], np.s_[:, :, ::2])):
        images[part] += 100 * (labels == label)[:, None, None]
    write_idx(folder / f"{name}-images.idx.gz", images.astype(np.uint8))
    write_idx(folder / f"{name}-labels.idx.gz", labels)
    return folder / f"{name}-images.idx.gz"


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    path = write_toy(tmp_path_factory.mktemp("toy"), "train", 256, 0)
    return ImageSet(IdxSource(path), np.arange(256), (8, 8), 1)


def student(seed=0, **changes):
    torch.manual_seed(seed)
    return create(ModelSpec(name="vit_tiny_patch16_224", args={**ARGS, **changes}))


def accuracy(model, data):
    return (predict(model, data, scale, precision="fp32").argmax(1) == data.labels).float().mean()


def weights(model):
    return torch.cat([value.flatten() for value in model.state_dict().values()])


# the loss


def reference_loss(output, targets, teacher, plan):
    """The same in float64 numpy, from the definitions."""

    def log_softmax(values):
        values = values - values.max(1, keepdims=True)
        return values - np.log(np.exp(values).sum(1, keepdims=True))

    rows, classes = np.arange(len(targets)), output.shape[1]
    smooth = np.full(output.shape, plan.label_smoothing / classes)
    smooth[rows, targets] += 1 - plan.label_smoothing
    true = -(smooth * log_softmax(output)).sum(1).mean()
    p, q = log_softmax(teacher / plan.temperature), log_softmax(output / plan.temperature)
    soft = plan.temperature**2 * (np.exp(p) * (p - q)).sum(1).mean()
    hard = -log_softmax(output)[rows, teacher.argmax(1)].mean()
    s, h = plan.soft_weight, plan.hard_weight
    return (1 - s - h) * true + s * soft + h * hard


@settings(max_examples=40, deadline=None)
@given(
    soft=st.floats(0, 1),
    share=st.floats(0, 1),
    temperature=st.floats(0.5, 8),
    smoothing=st.floats(0, 0.5),
    seed=st.integers(0, 1000),
)
def test_the_loss_is_the_definition(soft, share, temperature, smoothing, seed):
    rng = np.random.default_rng(seed)
    output, teacher = rng.normal(0, 3, (2, 6, 5))
    targets = rng.integers(0, 5, 6)
    plan = replace(
        PLAN, soft_weight=soft, hard_weight=(1 - soft) * share, temperature=temperature, label_smoothing=smoothing
    )
    ours = distillation_loss(torch.tensor(output), torch.tensor(targets), torch.tensor(teacher), plan)
    assert float(ours) == pytest.approx(reference_loss(output, targets, teacher, plan), rel=1e-5, abs=1e-6)


def test_a_student_equal_to_its_teacher_has_no_soft_loss():
    logits = torch.randn(4, 5)
    plan = replace(PLAN, soft_weight=1.0)
    assert float(distillation_loss(logits, torch.zeros(4, dtype=torch.long), logits, plan)) == pytest.approx(
        0, abs=1e-6
    )


def test_weights_above_one_are_our_own_mistake():
    with pytest.raises(AssertionError):
        replace(PLAN, soft_weight=0.7, hard_weight=0.7)


# fit


def test_training_learns(toy):
    model, losses = student(), []
    before = accuracy(model, toy)
    fit(model, toy, scale, PLAN, progress=lambda epoch, step, steps, loss: losses.append((epoch, step, steps, loss)))
    assert before < 0.7 < 0.9 < accuracy(model, toy)
    assert losses[-1][3] < 0.5 * losses[0][3]
    assert [entry[:3] for entry in losses] == [(epoch, step, 8) for epoch in range(8) for step in range(8)]
    assert not model.training and {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_augmented_bf16_training_learns_too(toy):
    model = student()
    fit(model, toy, scale, replace(PLAN, precision="bf16", augmentation="crop_flip", label_smoothing=0.1, epochs=2))
    assert torch.isfinite(weights(model)).all()
    assert weights(model).dtype is torch.float32


def test_the_same_seed_gives_the_same_weights_even_with_dropout(toy):
    plan = replace(PLAN, epochs=2, augmentation="crop_flip")

    def trained(seed, outside):
        model = student(drop_path_rate=0.3, proj_drop_rate=0.2)
        torch.manual_seed(outside)
        fit(model, toy, scale, replace(plan, seed=seed))
        return weights(model)

    assert torch.equal(trained(0, 1), trained(0, 2))
    assert not torch.equal(trained(0, 1), trained(1, 1))


def test_training_leaves_the_global_generator_alone(toy):
    torch.manual_seed(3)
    expected = torch.rand(1)
    model = student(drop_path_rate=0.3)
    torch.manual_seed(3)
    fit(model, toy, scale, replace(PLAN, epochs=1))
    assert torch.equal(torch.rand(1), expected)


def test_no_epochs_change_nothing(toy):
    model = student()
    before = weights(model)
    fit(model, toy, scale, replace(PLAN, epochs=0))
    assert torch.equal(weights(model), before)


def test_frozen_weights_stay(toy):
    model = student()
    model.patch_embed.requires_grad_(False)
    before, head = model.patch_embed.proj.weight.clone(), model.head.weight.clone()
    fit(model, toy, scale, replace(PLAN, epochs=1))
    assert torch.equal(model.patch_embed.proj.weight, before)
    assert not torch.equal(model.head.weight, head)


def test_fewer_images_than_a_batch_are_one_step(toy):
    steps = []
    fit(student(), toy.head(10), scale, replace(PLAN, epochs=3), progress=lambda *entry: steps.append(entry))
    assert len(steps) == 3


@pytest.mark.parametrize("cause", ["learning rate", "pixels"])
def test_a_diverged_training_is_a_failed_trial(toy, cause):
    plan = replace(PLAN, learning_rate=1e30) if cause == "learning rate" else PLAN
    spoiled = scale if cause == "learning rate" else lambda images: scale(images) * math.nan
    model = student()
    with pytest.raises(TrainingDivergedError, match=r"in epoch 1, step \d"):
        fit(model, toy, spoiled, plan)
    assert not model.training


class ExplodingGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.inf


def test_an_infinite_gradient_never_reaches_the_weights(toy):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 3)

        def forward(self, x):
            return ExplodingGradient.apply(self.linear(x.flatten(1)))

    model = Model()
    before = weights(model)
    with pytest.raises(TrainingDivergedError, match="gradient"):
        fit(model, toy, scale, PLAN)
    assert torch.equal(weights(model), before)


def test_the_deadline_ends_training(toy):
    model = student()
    with pytest.raises(TrialError, match="time limit in epoch 1 of 8"):
        fit(model, toy, scale, PLAN, deadline=time.monotonic() - 1)
    assert not model.training
    fit(model, toy, scale, replace(PLAN, epochs=1), deadline=time.monotonic() + 600)


# the teacher


def test_the_teacher_is_asked_once_an_epoch_for_the_epochs_view(toy):
    asked = []

    def teacher(view):
        asked.append(view)
        return torch.zeros(len(toy), 3)

    fit(student(), toy, scale, replace(PLAN, epochs=5, num_views=2, soft_weight=0.5), teacher)
    assert asked == [0, 1, 0, 1, 0]


def test_each_image_meets_its_own_teacher_logits(toy):
    """A teacher that names wrong labels on purpose is followed, image by image."""
    turned = (toy.labels + 1) % 3
    logits = nn.functional.one_hot(turned, 3) * 12.0
    for weights_of in ({"soft_weight": 1.0}, {"hard_weight": 1.0}):
        model = student()
        fit(model, toy, scale, replace(PLAN, **weights_of), lambda view: logits)
        predicted = predict(model, toy, scale, precision="fp32").argmax(1)
        assert (predicted == turned).float().mean() > 0.9


def test_the_student_sees_the_view_that_the_teacher_saw(toy):
    seen = []

    def spying(images):
        seen.append(images.clone())
        return scale(images)

    plan = replace(PLAN, epochs=2, augmentation="crop_flip", batch_size=256, seed=4)
    fit(student(), toy, spying, plan)
    for epoch in range(2):
        view = View.draw("crop_flip", 256, (8, 8), 4, epoch)
        expected = view.apply(toy.images(), torch.arange(256))
        order = torch.randperm(256, generator=torch.Generator().manual_seed(4 * 7919 + epoch))
        assert torch.equal(seen[epoch], expected[order])


def test_logits_that_predict_computed_can_teach(toy):
    """Inference tensors must not break the backward pass."""
    base = student(1)
    stored = predict(base, toy, scale)
    model = student()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    fit(model, toy, scale, replace(PLAN, epochs=1, soft_weight=0.5, hard_weight=0.5), lambda view: stored)
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


# predict


def test_predict_does_not_depend_on_batches_and_keeps_the_mode(toy):
    model = student().train()
    one = predict(model, toy, scale, batch_size=256, precision="fp32")
    assert model.training
    assert one.shape == (256, 3) and one.dtype is torch.float32
    torch.testing.assert_close(predict(model, toy, scale, batch_size=100, precision="fp32"), one)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(scale(toy.images())), one)


def test_predict_on_a_view_is_predict_on_its_pixels(toy):
    model = student()
    view = View.draw("crop_flip", 256, (8, 8), 0, 0)
    on_view = predict(model, toy, scale, batch_size=60, view=view, precision="fp32")
    with torch.no_grad():
        torch.testing.assert_close(on_view, model(scale(view.apply(toy.images(), torch.arange(256)))))
    assert not torch.allclose(on_view, predict(model, toy, scale, precision="fp32"))


# base models


@pytest.fixture
def train_spec(tmp_path):
    train, test = write_toy(tmp_path, "train", 200, 0), write_toy(tmp_path, "test", 60, 1)
    return TrainSpec(
        model=ModelSpec(name="vit_tiny_patch16_224", args=ARGS, mean=(0.4,), std=(0.3,)),
        data=DataSpec(format="idx", train=str(train), test=str(test), validation={"last": 40}),
        training=TrainingSpec(epochs=8, learning_rate=3e-3, batch_size=20, augmentation="none", precision="fp32"),
    )


def test_a_trained_base_describes_itself_and_loads_again(train_spec, tmp_path):
    lines, steps = [], []
    out = tmp_path / "new" / "base.safetensors"
    description = train_base(train_spec, out, lambda *entry: steps.append(entry), lines.append)
    assert lines == ["160 training and 40 validation images"] and len(steps) == 8 * 8
    assert description["test_top1"] > 0.85 and description["validation_top1"] > 0.8
    stored = read_checkpoint_metadata(out)
    assert (stored["name"], stored["args"], stored["mean"]) == ("vit_tiny_patch16_224", ARGS, [0.4])
    assert stored["test_top1"] == description["test_top1"] and stored["training"]["epochs"] == 8
    base = load(ModelSpec(checkpoint=str(out)).resolved(tmp_path))
    splits = Splits(train_spec.data, base.size, base.channels)
    assert round(figures_of(base.module, splits.open_test(), base, "fp32")["top1"], 4) == description["test_top1"]


def test_a_base_without_test_data_has_no_test_figure(train_spec, tmp_path):
    spec = train_spec.model_copy(
        update={
            "data": train_spec.data.model_copy(update={"test": None}),
            "training": train_spec.training.model_copy(update={"epochs": 1}),
        }
    )
    assert "test_top1" not in train_base(spec, tmp_path / "base.safetensors", say=lambda line: None)


def test_too_few_classes_are_refused(train_spec, tmp_path):
    model = train_spec.model.model_copy(update={"args": {**ARGS, "num_classes": 2}})
    with pytest.raises(UserError, match=r"2 classes for 3 labels in .*; set model\.args\.num_classes"):
        train_base(train_spec.model_copy(update={"model": model}), tmp_path / "base.safetensors")


def test_an_unwritable_place_is_told_before_the_training(train_spec, tmp_path):
    def never(*entry):
        raise AssertionError("trained")

    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "base.safetensors", tmp_path):
        with pytest.raises(UserError):
            train_base(train_spec, out, never)


def test_a_training_file_is_read_with_paths_of_its_own_folder_or_the_given_one(train_spec, tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump({"model": {"name": "x"}, "data": {"format": "idx", "train": "a"}}))
    spec = read_training(path)
    assert spec.data.train == str(tmp_path / "a") and spec.training == TrainingSpec()
    spec = read_training(path, tmp_path / "elsewhere", epochs=3)
    assert spec.data.train == str(tmp_path / "elsewhere" / "a") and spec.training.epochs == 3
    with pytest.raises(UserError, match="epochs"):
        read_training(path, epochs=0)
    path.write_text("model: {name: x}\ndata: {format: idx}\ntraining: {epoch: 3}\n")
    with pytest.raises(UserError, match="did you mean 'epochs'"):
        read_training(path)


def write_toy_folders(root, names, seed):
    """The toy's three classes as folders of these names, in the order of its labels."""
    images = IdxSource(write_toy(root, f"{seed}", 150, seed))
    for row, label in enumerate(images.labels):
        (root / str(seed) / names[label]).mkdir(parents=True, exist_ok=True)
        images.read(row).save(root / str(seed) / names[label] / f"{row}.png")
    return str(root / str(seed))


def test_a_classifier_keeps_the_names_of_its_classes_and_knows_them_in_another_order(tmp_path):
    named = write_toy_folders(tmp_path, ("c rows", "b columns", "a nothing"), 5)
    model = ModelSpec(name="vit_tiny_patch16_224", args=ARGS, mean=(0.5,), std=(0.25,))
    plan = TrainingSpec(epochs=10, learning_rate=3e-3, batch_size=20, augmentation="none", precision="fp32")
    spec = TrainSpec(model=model, data=DataSpec(train=named, validation=30), training=plan)
    out = tmp_path / "base.safetensors"
    description = train_base(spec, out, say=lambda line: None)
    assert description["class_names"] == ["a nothing", "b columns", "c rows"]
    base = load(ModelSpec(checkpoint=str(out)).resolved(tmp_path))
    assert base.class_names == ("a nothing", "b columns", "c rows")
    data = DataSpec(train=named, validation=30, classes=("c rows", "a nothing", "b columns"))
    splits = open_splits(data, base)
    assert splits.validation.class_names == list(base.class_names), "whatever the data's own order"
    top1 = figures_of(base.module, splits.validation, base)["top1"]
    assert top1 == pytest.approx(description["validation_top1"], abs=1e-3) and top1 > 0.6
    other = write_toy_folders(tmp_path, ("x", "y", "z"), 6)
    with pytest.raises(UserError, match="3 of 3 that it did not"):
        open_splits(DataSpec(train=other, validation=30), base)
    lines = []
    tuned = spec.model_copy(
        update={"model": ModelSpec(checkpoint=str(out)).resolved(tmp_path), "data": DataSpec(train=other)}
    )
    tuned = tuned.model_copy(update={"training": TrainingSpec(epochs=1)})
    assert train_base(tuned, tmp_path / "tuned.safetensors", say=lines.append)["class_names"] == ["x", "y", "z"]
    assert "the checkpoint's classes (a nothing, b columns, c rows) become x, y, z" in lines


COMPACT = "sousvit.spaces.techniques.students.convolutional:network"
COMPACT_ARGS = {"family": "residual", "width": 8, "img_size": 8, "in_chans": 1, "num_classes": 3}


def compact_teacher(train_spec, out, epochs=12):
    """A network of convolutions trained on the toy, and how to load it."""
    model = ModelSpec(factory=COMPACT, args=COMPACT_ARGS, mean=(0.4,), std=(0.3,))
    training = train_spec.training.model_copy(update={"epochs": epochs, "optimizer": "adamw"})
    description = train_base(TrainSpec(model=model, data=train_spec.data, training=training), out, say=quiet)
    return model.model_copy(update={"checkpoint": str(out)}), description


def quiet(line):
    """Nothing is said."""


def test_a_base_learns_from_a_teacher_of_convolutions_alone(train_spec, tmp_path):
    teacher, description = compact_teacher(train_spec, tmp_path / "teacher.safetensors")
    assert description["test_top1"] > 0.85
    images = Path(train_spec.data.train)
    shuffled = np.roll(IdxSource(images).labels, 1)  # they tell nothing: what is learned comes from the teacher
    write_idx(images.with_name("train-labels.idx.gz"), shuffled.astype(np.uint8))
    training = train_spec.training.model_copy(update={"epochs": 12, "teacher": teacher, "soft_weight": 1.0})
    learned = train_base(train_spec.model_copy(update={"training": training}), tmp_path / "base.safetensors", say=quiet)
    assert learned["test_top1"] > 0.8 and learned["validation_top1"] < 0.6
    assert learned["training"]["teacher"]["factory"] == COMPACT


def test_a_teacher_of_other_images_or_classes_is_refused(train_spec, tmp_path):
    for args in ({**COMPACT_ARGS, "img_size": 16}, {**COMPACT_ARGS, "num_classes": 4}):
        teacher = ModelSpec(factory=COMPACT, args=args, mean=(0.4,), std=(0.3,))
        training = train_spec.training.model_copy(update={"teacher": teacher})
        with pytest.raises(UserError, match="a teacher reads the images of its student"):
            train_base(train_spec.model_copy(update={"training": training}), tmp_path / "base.safetensors", say=quiet)


def test_a_teacher_with_another_order_of_classes_is_refused(train_spec, tmp_path):
    named = write_toy_folders(tmp_path, ("a", "b", "c"), 5)
    out = tmp_path / "teacher.safetensors"
    training = train_spec.training.model_copy(update={"epochs": 1})
    spec = TrainSpec(
        model=train_spec.model,
        data=DataSpec(train=named, validation=30, classes=("c", "a", "b")),
        training=training,
    )
    train_base(spec, out, say=quiet)
    taught = training.model_copy(update={"teacher": ModelSpec(checkpoint=str(out)).resolved(tmp_path)})
    other = TrainSpec(model=spec.model, data=DataSpec(train=named, validation=30), training=taught)
    with pytest.raises(UserError, match="a teacher knows the classes in the order"):
        train_base(other, tmp_path / "base.safetensors", say=quiet)


def test_a_killed_training_of_a_base_goes_on_where_it_was(train_spec, tmp_path, monkeypatch):
    monkeypatch.setattr("sousvit.spaces.training.checkpoint.PERIOD", 0.0)
    whole = train_base(train_spec, tmp_path / "whole.safetensors", say=quiet)
    out, steps = tmp_path / "base.safetensors", []

    def killed(epoch, step, *rest):
        if epoch == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_base(train_spec, out, killed, quiet)
    again = train_base(train_spec, out, lambda *entry: steps.append(entry), quiet)
    assert steps[0][:2] == (5, 1) and again == whole
    stored, other = load_file(out), load_file(tmp_path / "whole.safetensors")
    assert all(torch.equal(stored[name], other[name]) for name in other)
    assert sorted(path.name for path in tmp_path.glob("*.training")) == []


def test_a_compact_network_is_a_model_of_its_own_or_one_line(tmp_path):
    base = load(ModelSpec(factory=COMPACT, args=COMPACT_ARGS, mean=(0.4,), std=(0.3,)))
    assert base.size == (8, 8) and base.channels == 1 and base.num_classes == 3
    for args, line in (
        ({"family": "residal"}, "did you mean 'residual'"),
        ({"width": 20}, "multiple of 8"),
        ({"img_size": 6}, "at least 8"),
    ):
        with pytest.raises(UserError, match=line):
            load(ModelSpec(factory=COMPACT, args={**COMPACT_ARGS, **args}, mean=(0.4,), std=(0.3,)))
