"""The details of an answer: what the session that judged it saw besides figures, recorded in seconds."""

from __future__ import annotations

import base64
import io
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from sousvit.errors import SharedInputError, one_line
from sousvit.objectives.subject import MeasuredSubject
from sousvit.objectives.tasks.classification import TopOneEvaluation
from sousvit.objectives.timing import Timing
from sousvit.search.judging.subjects import Subjects
from sousvit.search.stored.details_file import (
    MOST_IMAGES,
    THUMBNAIL,
    ClassFigures,
    Details,
    Disagreement,
    Latency,
)
from sousvit.spaces.calibration.quantize import PART_IMAGES, part_sensitivities
from sousvit.spaces.module_shape import shape_of

#: Seconds that sensitivities may take, by the base's latency; PyTorch is about so much slower than the runtime.
SENSITIVITY_SECONDS, PYTORCH_FACTOR = 10.0, 3.0


def details_of(
    subjects: Subjects, judged: Mapping[str, MeasuredSubject], end: float = math.inf
) -> tuple[Details | None, tuple[str, ...]]:
    """The details of the rows of a final table; None and why where they could not be recorded: it costs no answer.

    Args:
        judged: subjects by role, ``base`` and ``recipe`` among them, timed and judged on the same images.
        end: when the answer's time is over, on the monotonic clock; what takes long is left out then.
    """
    try:
        return _recorded(subjects, judged, end), ()
    except SharedInputError:  # the machine or the data have a fault, which is told
        raise
    except Exception as error:
        return None, (f"the report goes without details of the answer: {one_line(error)}",)


def _recorded(subjects: Subjects, judged: Mapping[str, MeasuredSubject], end: float) -> Details:
    base, recipe = judged["base"], judged["recipe"]
    model = subjects.model
    shape = shape_of(recipe.model, "the answer", model.size, model.channels, model.num_classes)
    of, parts = _blocks(base, recipe)
    return Details(
        latencies={
            role: {target: _latency(timing) for target, timing in subject.timings.items() if timing.tails}
            for role, subject in judged.items()
        },
        shape=asdict(shape),
        **_predictions(base, recipe, labelled=subjects.budget.data.kind == "labelled" or subjects.budget.data.has_test),
        sensitivity=_sensitivities(subjects, judged[of], parts, min(SENSITIVITY_SECONDS, end - time.monotonic())),
        sensitivity_of=of.replace("recipe", "answer"),
    )


def _latency(timing: Timing) -> Latency:
    return Latency(
        p50=timing.p50_ms,
        low=timing.p50_low_ms,
        high=timing.p50_high_ms,
        p95=timing.p95_ms,
        p99=timing.p99_ms,
        samples=timing.samples,
        noisy=timing.noisy,
    )


def _predictions(base: MeasuredSubject, recipe: MeasuredSubject, labelled: bool) -> dict[str, Any]:
    """Figures per class, and images on which the two disagree, where a model gives one class an image."""
    before, after = base.evaluation, recipe.evaluation
    if not isinstance(before, TopOneEvaluation) or not isinstance(after, TopOneEvaluation):
        return {}
    labels, names = before.labels, _Names(recipe.images.class_names)
    counts = np.bincount(labels)
    right = [np.bincount(labels[one.correct], minlength=len(counts)) for one in (before, after)]
    classes = tuple(
        ClassFigures(name=names[number], count=int(count), base=int(right[0][number]), answer=int(right[1][number]))
        for number, count in enumerate(counts)
        if count and labelled
    )
    differ = np.flatnonzero(before.predictions != after.predictions)
    few = differ[np.linspace(0, len(differ) - 1, min(MOST_IMAGES, len(differ))).round().astype(int)]
    pictures = thumbnails(recipe.images.images(torch.from_numpy(few))) if len(few) else []
    shown = tuple(
        Disagreement(
            image=picture,
            label=names[labels[place]] if labelled else "",
            base=names[before.predictions[place]],
            answer=names[after.predictions[place]],
        )
        for place, picture in zip(few, pictures, strict=True)
    )
    return {"classes": classes, "num_disagreements": len(differ), "disagreements": shown}


class _Names:
    """Names of classes by number; the number itself where a class has none."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def __getitem__(self, number: Any) -> str:
        place = int(number)
        return self._names[place] if place < len(self._names) else str(place)


def thumbnails(images: torch.Tensor) -> list[str]:
    """Small PNGs in base64 of uint8 images ``[B, C, H, W]``; the longer side has at most :data:`THUMBNAIL` pixels."""
    pixels = images[:, :3] if images.shape[1] >= 3 else images[:, :1]  # without alpha
    share = min(1.0, THUMBNAIL / max(pixels.shape[2:]))
    if share < 1:
        size = [max(1, round(side * share)) for side in pixels.shape[2:]]
        pixels = F.interpolate(pixels.float(), size, mode="area").round().to(torch.uint8)
    found = []
    for one in pixels.permute(0, 2, 3, 1).numpy():
        out = io.BytesIO()
        Image.fromarray(one.squeeze(-1) if one.shape[-1] == 1 else one).save(out, "PNG", optimize=True)
        found.append(base64.b64encode(out.getvalue()).decode())
    return found


def _blocks(base: MeasuredSubject, recipe: MeasuredSubject) -> tuple[str, dict[str, Any]]:
    """Whose blocks are looked at, and these by name: the answer's, or the base's where the answer has none."""
    for role, subject in (("recipe", recipe), ("base", base)):
        blocks = list(getattr(subject.model, "blocks", ()))
        if blocks:
            return role, {f"block {number}": block for number, block in enumerate(blocks, start=1)}
    return "base", {}


def _sensitivities(
    subjects: Subjects, subject: MeasuredSubject, parts: dict[str, Any], most: float
) -> dict[str, float]:
    context = subjects.context
    seconds = PYTORCH_FACTOR * subject.timing.p50_ms / 1000 * PART_IMAGES * (len(parts) + 1)
    if not parts or context.calibration is None or seconds > most:
        return {}
    subjects.progress("sensitivity of blocks", 0, 0)
    return part_sensitivities(subject.model, parts, context)
