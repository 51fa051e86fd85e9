"""Training or fine-tuning of a base model from a YAML file of model, data and training: ``sousvit train``."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from sousvit.cache import TensorCache
from sousvit.checked import Checked, read_yaml, validated
from sousvit.data import DataSpec, ImageSet, Splits
from sousvit.data.augment import View
from sousvit.data.classes import Match
from sousvit.data.layout import resolve_data
from sousvit.errors import UserError
from sousvit.files import content_hash, disk_errors_as_user_errors
from sousvit.machine import Precision
from sousvit.models.checkpoints.safetensors_file import CLASS_NAMES
from sousvit.models.load import LoadedModel, ModelSpec, load, save_checkpoint
from sousvit.spaces.images import match_classes, require_room
from sousvit.spaces.tasks.task import task_of
from sousvit.spaces.training.checkpoint import Checkpoint
from sousvit.spaces.training.loop import fit, predict
from sousvit.spaces.training.plan import Progress, TrainingPlan
from sousvit.specs import OptimizerName, Policy, require_task


class TrainingSpec(Checked):
    """The section ``training`` of the file (see :class:`sousvit.spaces.training.plan.TrainingPlan`).

    Label smoothing is for classifiers: for a detector it is off by default, and an error where the file asks for it.
    ``teacher`` is another trained model to learn from beside the labels, such as a network of convolutions, which
    learns more from few images (DeiT, arXiv 2012.12877): its predictions on each augmented view are ``soft_weight`` of
    the loss, at ``temperature``.
    """

    epochs: int = Field(default=10, ge=1, le=1_000_000)
    learning_rate: float = Field(default=1e-2, gt=0)
    optimizer: OptimizerName = "muon"
    batch_size: int = Field(default=128, ge=1, le=65_536)
    weight_decay: float = Field(default=0.05, ge=0)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    augmentation: Policy = "crop_flip"
    precision: Precision = "auto"
    seed: int = Field(default=0, ge=0, lt=2**31)
    teacher: ModelSpec | None = None
    soft_weight: float = Field(default=0.5, gt=0, le=1)
    temperature: float = Field(default=2.0, gt=0)

    def plan(self, detects: bool) -> TrainingPlan:
        """What the loop does."""
        unlabelled = {} if self.teacher is None else {"soft_weight": self.soft_weight}
        unsmoothed = {"label_smoothing": 0.0} if detects and "label_smoothing" not in self.model_fields_set else {}
        common = self.model_dump(exclude={"teacher", "soft_weight"})
        return TrainingPlan(**{**common, **unlabelled, **unsmoothed})


class TrainSpec(Checked):
    """A training file."""

    model: ModelSpec
    data: DataSpec
    training: TrainingSpec = TrainingSpec()


def figures_of(
    model: torch.nn.Module, data: ImageSet, base: LoadedModel, precision: Precision = "auto"
) -> dict[str, float]:
    """``top1``, or ``map50`` and ``map`` of a detector, on ``data``."""
    outputs = predict(model, data, base.normalise, precision=precision)
    return task_of(model).figures(model, outputs, data)


def train_base(
    spec: TrainSpec, out: Path, progress: Progress | None = None, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Train, judge on validation and (once) on test, and write the checkpoint with its description.

    The state is kept in a folder beside ``out`` on the way: the same call after a kill goes on where it was.

    Args:
        spec: model, data (paths resolved) and training.
        out: the checkpoint to write.
        progress: called after every step.
        say: takes lines for the user.

    Returns:
        The description written into the checkpoint: name, args, mean, std, figures, class names if the data has some.

    Raises:
        UserError: bad data or model, more classes in the data than the model has, or ``out`` cannot be written.
    """
    _require_writable(out)
    if spec.data.kind != "labelled":
        raise UserError("training needs labelled images", f"data of the kind {spec.data.kind}", "name labelled data")
    torch.manual_seed(spec.training.seed)
    base = load(spec.model)
    require_task(spec.model, spec.data)
    matcher = partial(_learned_or_new, base) if base.class_names else None  # a new head learns the data's own order
    splits = Splits(spec.data, base.size, base.channels, matcher=matcher, preprocess=base.preprocess)
    parts = [splits.train, splits.validation, *([splits.look_at_test()] if spec.data.has_test else [])]
    for part in parts:
        require_room(base, part)
    say(f"{len(splits.train)} training and {len(splits.validation)} validation images")
    for note in (*base.notes, *splits.notes):
        say(note)
    plan = spec.training.plan(detects=spec.model.detector is not None)
    teacher = None if spec.training.teacher is None else _Teacher(load(spec.training.teacher), base, splits.train, plan)
    learns_from = [] if teacher is None else [teacher.fingerprint]
    kept = out.with_name(out.name + ".training")
    key = content_hash(base.fingerprint, splits.train.fingerprint, repr(plan), *learns_from)
    checkpoint = Checkpoint(TensorCache(kept), key)
    fit(base.module, splits.train, base.normalise, plan, teacher, progress, checkpoint=checkpoint)
    description: dict[str, Any] = {
        "name": spec.model.name,
        "args": spec.model.args,
        "mean": base.mean,
        "std": base.std,
        "preprocess": base.preprocess.steps,
        "training": {**spec.training.model_dump(mode="json"), "label_smoothing": plan.label_smoothing},
        **_figures("validation", base, splits.validation, plan.precision),
    }
    if spec.model.detector is not None:
        description["detector"] = spec.model.detector.model_dump(mode="json")
    if splits.train.class_names:
        description[CLASS_NAMES] = splits.train.class_names
    save_checkpoint(out, base.module, description)
    if spec.data.has_test:
        description.update(_figures("test", base, splits.open_test(), plan.precision))
        save_checkpoint(out, base.module, description)
    shutil.rmtree(kept, ignore_errors=True)
    return description


class _Teacher:
    """A trained model's predictions on the augmented views that a base learns from.

    Raises:
        UserError: it does not read the base's images, or tells other classes.
    """

    def __init__(self, model: LoadedModel, base: LoadedModel, data: ImageSet, plan: TrainingPlan) -> None:
        given, asked = (model.channels, *model.size), (base.channels, *base.size)
        if given != asked or model.num_classes != base.num_classes:
            raise UserError(
                "a teacher reads the images of its student and tells the same classes",
                f"{given} and {model.num_classes} classes beside {asked} and {base.num_classes}",
                "train a teacher on the same data at the same size",
            )
        if model.class_names and data.class_names and list(model.class_names) != list(data.class_names):
            raise UserError(
                "a teacher knows the classes in the order that its student learns",
                f"{', '.join(model.class_names)} beside {', '.join(data.class_names)}",
                "name them in its order in data.classes",
            )
        self._model, self._data, self._plan, self.fingerprint = model, data, plan, model.fingerprint

    def __call__(self, view: int) -> torch.Tensor:
        plan, model = self._plan, self._model
        pixels = View.draw(plan.augmentation, len(self._data), self._data.size, plan.seed, view)
        return predict(model.module, self._data, model.normalise, view=pixels, precision=plan.precision)


def _learned_or_new(base: LoadedModel, names: Sequence[str], ordered: bool) -> Match:
    """The base's labels for its own classes; other classes take their places, which is reported to the user."""
    try:
        return match_classes(base, names, ordered)
    except UserError:
        return Match(notes=[f"the checkpoint's classes ({', '.join(base.class_names)}) become {', '.join(names)}"])


def _figures(part: str, base: LoadedModel, data: ImageSet, precision: Precision) -> dict[str, float]:
    found = figures_of(base.module, data, base, precision)
    return {f"{part}_{name}": round(value, 4) for name, value in found.items()}


def _require_writable(out: Path) -> None:
    """Check before the training, not after it, that the checkpoint can be written."""
    with disk_errors_as_user_errors(out):
        if out.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder")
        out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out.parent).close()


def read_training(path: Path, data_root: Path | None = None, epochs: int | None = None) -> TrainSpec:
    """The training file at ``path``.

    Args:
        path: YAML of model, data and training.
        data_root: where relative data paths start; the file's folder by default.
        epochs: instead of the file's.

    Raises:
        UserError: anything wrong in it.
    """
    spec = validated(TrainSpec, read_yaml(path), str(path))
    training = spec.training
    if training.teacher is not None:
        training = training.model_copy(update={"teacher": training.teacher.resolved(path.parent)})
    if epochs is not None:
        training = validated(TrainingSpec, {**training.model_dump(exclude_unset=True), "epochs": epochs}, "the option")
    resolved = {"model": spec.model.resolved(path.parent), "data": resolve_data(spec.data, data_root or path.parent)}
    return spec.model_copy(update={**resolved, "training": training})
