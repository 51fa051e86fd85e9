"""Opens whatever images a user has (labelled, unlabelled, or none) as the same :class:`Splits`."""

from __future__ import annotations

from sousvit.common.cache import TensorCache
from sousvit.common.data import DataSpec, ImageSet, Splits
from sousvit.common.errors import UserError
from sousvit.common.model import LoadedModel
from sousvit.spaces.synthesis.config import synthesis_of
from sousvit.spaces.synthesis.select import truth_of
from sousvit.spaces.synthesis.supply import HELD_OUT, Supply
from sousvit.spaces.tasks.task import task_of
from sousvit.spaces.teacher import Teacher


def open_splits(
    spec: DataSpec, base: LoadedModel, supply: Supply | None = None, cache: TensorCache | None = None
) -> Splits:
    """Training and validation images at the base's input size, with labels of their own or the base's predictions.

    Args:
        spec: resolved data specification.
        base: names the classes of images without labels.
        supply: makes images where there are none; needed for ``data: none``.
        cache: keeps the base's answers on unlabelled images.

    Raises:
        UserError: see :class:`Splits`; or there are more classes than the model has.
    """
    task = task_of(base.module)
    if spec.kind != "labelled" and base.num_classes < task.least_classes:
        rule = "without labels, the base must tell classes apart"
        raise UserError(rule, f"{base.num_classes} classes", "set model.args.num_classes, or name labelled data")
    if spec.kind == "none":
        assert supply is not None
        own = synthesis_of(spec)
        held_out = own.model_copy(update={"images": spec.held_out})
        return Splits(spec, base.size, base.channels, (supply.made(own), supply.made(held_out, HELD_OUT)))
    splits = Splits(spec, base.size, base.channels, boxes=task.name == "detection")
    if spec.kind == "unlabelled":
        splits.train, splits.validation = (
            _labelled_by(base, part, cache) for part in (splits.train, splits.validation)
        )
    elif splits.num_classes > base.num_classes:
        raise UserError(
            "the model needs a class for every label",
            f"{base.num_classes} classes for {splits.num_classes} labels",
            "correct model or data",
        )
    return splits


def _labelled_by(base: LoadedModel, images: ImageSet, cache: TensorCache | None) -> ImageSet:
    """The images with the base's prediction (unaugmented) in the place of each label."""
    task = task_of(base.module)
    return task.labelled(images, task.truth(base.module, Teacher(base, images, cache)("none", 0, 0)))


def exactly_labelled(base: LoadedModel, images: ImageSet) -> ImageSet:
    """The same by the base in float32, to state agreement with it: a teacher may work in less, and rounds."""
    return task_of(base.module).labelled(images, truth_of(base, images.images()))
