"""The images of a run as :class:`Splits`, whether the user has labelled ones, unlabelled ones, or none.

:func:`open_final` opens those that the answer is judged on, when the search is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from sousvit.cache import TensorCache
from sousvit.data import DataSpec, ImageSet, Splits, look_at_test
from sousvit.data.classes import Match, are_placeholders, are_wordnet, match, taken_as_numbers
from sousvit.errors import UserError
from sousvit.models.load import LoadedModel
from sousvit.spaces.tasks.task import task_of
from sousvit.spaces.techniques.synthesis.config import SynthesisConfig, synthesis_of
from sousvit.spaces.techniques.synthesis.select import truth_of
from sousvit.spaces.techniques.synthesis.synthesiser import FINAL, HELD_OUT, Synthesiser
from sousvit.spaces.training.teacher import Teacher


def class_names(base: LoadedModel, images: ImageSet) -> tuple[str, ...]:
    """What each label of ``base`` means, by its checkpoint, else by the data; "" where neither says it."""
    theirs, own = list(base.class_names), list(images.class_names)
    if theirs and are_placeholders(theirs) and own:
        theirs = []
    longest = max(len(theirs), len(own))
    theirs, own = (names + [""] * (longest - len(names)) for names in (theirs, own))
    return tuple(one or other for one, other in zip(theirs, own, strict=True))


def open_splits(
    spec: DataSpec, base: LoadedModel, synthesiser: Synthesiser | None = None, cache: TensorCache | None = None
) -> Splits:
    """Training and validation images at the base's input size, with labels of their own or the base's predictions.

    The labels of a test split are checked here, so that a wrong one is reported before the search and not after it.

    Args:
        spec: resolved data specification.
        base: its predictions take the place of missing labels.
        synthesiser: makes images where there are none; needed for ``data: none``.
        cache: keeps the base's answers on unlabelled images, and what was read to compare images.

    Raises:
        UserError: see :class:`Splits`, :func:`look_at_test` and :func:`require_room`.
    """
    task = task_of(base.module)
    if spec.kind != "labelled" and base.num_classes < task.least_classes:
        rule = "without labels, the base must tell classes apart"
        raise UserError(rule, f"{base.num_classes} classes", "set model.args.num_classes, or name labelled data")
    matcher = partial(match_classes, base)
    if spec.kind == "none":
        assert synthesiser is not None
        if spec.has_test:
            require_room(base, look_at_test(spec, base.size, base.channels, matcher, cache, base.preprocess))
        made = synthesiser.made(synthesis_of(spec)), synthesiser.made(_judging(spec), HELD_OUT)
        return Splits(spec, base.size, base.channels, made, matcher=matcher, cache=cache, preprocess=base.preprocess)
    boxes = task.name == "detection"
    splits = Splits(spec, base.size, base.channels, None, boxes, matcher, cache, base.preprocess)
    labelled = [splits.train, splits.validation] if spec.kind == "labelled" else []
    for part in [*labelled, *([splits.look_at_test()] if spec.has_test else [])]:
        require_room(base, part)
    if spec.kind == "unlabelled":
        splits.train, splits.validation = (
            _labelled_by(base, part, cache) for part in (splits.train, splits.validation)
        )
    return splits


def open_final(splits: Splits, synthesiser: Synthesiser) -> ImageSet:
    """The images that an answer is judged on: the test split, or for ``data: none`` some synthesised for this alone.

    For unlabelled images without a test split it is those that were held back from the trials; where there were too
    few to hold some back, it is the validation images again.
    """
    spec = splits.spec
    if spec.has_test:
        return splits.open_test()
    if spec.kind == "none":
        return synthesiser.made(_judging(spec), FINAL)
    return splits.validation if splits.held_back is None else splits.held_back


def _judging(spec: DataSpec) -> SynthesisConfig:
    """Parameters of the synthesised images that recipes are judged on."""
    return synthesis_of(spec).model_copy(update={"images": spec.held_out})


def _labelled_by(base: LoadedModel, images: ImageSet, cache: TensorCache | None) -> ImageSet:
    """The images with the base's prediction (unaugmented) in the place of each label."""
    task = task_of(base.module)
    return task.labelled(images, task.truth(base.module, Teacher(base, images, cache)("none", 0, 0)))


def exactly_labelled(base: LoadedModel, images: ImageSet) -> ImageSet:
    """The images labelled by the base in float32, for agreement with it: a teacher may compute in bf16, and rounds."""
    return task_of(base.module).labelled(images, truth_of(base, images.images()))


def match_classes(base: LoadedModel, names: Sequence[str], ordered: bool) -> Match:
    """The base's labels for classes of these names; WordNet's numbers are read as ImageNet's classes.

    Args:
        ordered: whether the user gave the order, as ``data.classes``.

    Raises:
        UserError: see :func:`match`.
    """
    learned = base.class_names
    if not names:
        return taken_as_numbers(learned)
    if are_wordnet(names) and not are_wordnet(learned):
        from timm.data import ImageNetInfo

        imagenet = ImageNetInfo("imagenet-1k")
        described = dict(zip(imagenet.label_names(), imagenet.label_descriptions(), strict=True))
        if all(name in described for name in names):
            if learned:
                return match([described[name] for name in names], learned, base.num_classes, ordered)
            learned = tuple(described) if base.num_classes == len(described) else ()
    return match(names, learned, base.num_classes, ordered)


def require_room(base: LoadedModel, data: ImageSet) -> None:
    """Check that the base has an output for every class.

    Raises:
        UserError: it has not.
    """
    if data.num_classes > base.num_classes:
        raise UserError(
            "the model needs a class for every label",
            f"{base.num_classes} classes for {data.num_classes} labels in {data.source.name}",
            "set model.args.num_classes, or correct the data",
        )
