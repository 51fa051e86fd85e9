"""Everything that happens before a search's first trial, without a run: the base judged, the images as the model sees
them, the space counted, and what a trial will cost on this machine.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sousvit.files import write_atomic
from sousvit.objectives.objective import Measurement
from sousvit.search.budget import Budget, open_space, require_sound
from sousvit.search.executors.executor import Progress
from sousvit.search.judging.subjects import Subjects
from sousvit.search.run import check_measured
from sousvit.search.trial import encode
from sousvit.spaces.shape import read_shape
from sousvit.spaces.techniques.synthesis.contact_sheet import contact_sheet


@dataclass(frozen=True)
class Checked:
    """What a search of a budget would begin with.

    Attributes:
        base: figures of the uncompressed model in ONNX Runtime fp32.
        images: how many by part.
        classes: names in the order of the labels, where they are known.
        preprocess: every step from an image file to the model's input.
        notes: what was assumed, dropped or changed.
        techniques: in the space.
        left_out: why others of the space are not.
        combinations: recipes that the space holds.
        trial_seconds: of a trial that trains nothing: to export, time and judge it.
        epoch_seconds: of training the base for an epoch; a smaller model needs less. None where nothing trains.
        memory_mb: the most that this process took.
        sheet: PNG with images as the model sees them.
    """

    base: Mapping[str, Measurement]
    images: Mapping[str, int]
    classes: tuple[str, ...]
    preprocess: Mapping[str, Any]
    notes: tuple[str, ...]
    techniques: tuple[str, ...]
    left_out: Mapping[str, str]
    combinations: int
    trial_seconds: float
    epoch_seconds: float | None
    memory_mb: float
    sheet: Path

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**vars(self), "base": encode(self.base), "sheet": str(self.sheet)}


def check(budget: Budget, sheet: Path, progress: Progress) -> Checked:
    """Measure the base, and whatever else a search would do first.

    Args:
        budget: checked.
        sheet: the PNG to write.
        progress: told what is being done.

    Raises:
        UserError: anything that would stop the search before its first trial.
    """
    require_sound(budget)
    with tempfile.TemporaryDirectory(prefix="sousvit-check-") as folder:
        subjects = Subjects({"budget": budget.model_dump(mode="json"), "folder": folder}, progress)
        try:
            begun = time.monotonic()
            base = subjects.start(None)
            trial_seconds = time.monotonic() - begun
            check_measured(budget, base)
            space, left_out = open_space(budget, read_shape(base.shape))
            epoch_seconds = (
                (base.epoch_seconds or subjects.training_pace(base.values).epoch_seconds) if space.trains else None
            )
            splits, model = subjects.splits, subjects.model
            images = {"train": len(splits.train), "validation": len(splits.validation)}
            if splits.held_back is not None:
                images["held back"] = len(splits.held_back)
            if budget.data.has_test:
                images["test"] = len(splits.look_at_test())
            write_atomic(sheet, contact_sheet(splits.validation))
            names = model.class_names or tuple(splits.train.class_names)
            how = {**model.preprocess.steps, "size": model.size, "mean": model.mean, "std": model.std}
            techniques = tuple(dict.fromkeys(option.handler.name for option in space.options()))
            return Checked(
                base.values, images, names, how, tuple(subjects.notes), techniques, left_out, space.size,
                trial_seconds, epoch_seconds, _peak_memory_mb(), sheet,
            )  # fmt: skip
        finally:
            subjects.close()


def _peak_memory_mb() -> float:
    """Peak resident memory of this process; Linux counts kibibytes, macOS bytes."""
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
