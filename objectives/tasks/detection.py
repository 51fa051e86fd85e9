"""Detection: boxes found by an artifact in its runtime, mean average precision, and intervals by the bootstrap.

The artifact gives dense predictions; thresholds and non-maximum suppression run here, in torchvision, the same for the
base and every candidate (why: :mod:`sousvit.models.detector`).

mAP is no mean over images, so its intervals come from resampling images (Efron and Tibshirani 1993): the percentiles of
the differences between base and candidate on the same resamples. Resamples repeat images, which lifts average precision
a little; in differences that cancels, for a single figure the resamples' spread about their mean is put around it.
Where two artifacts find the same boxes the interval has no width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from sousvit.errors import UserError
from sousvit.models.mean_ap import MAP, MAP50, MeanAveragePrecision
from sousvit.objectives.tasks.task import Evaluation, JudgingTask, predictions
from sousvit.specs import Task

if TYPE_CHECKING:
    import torch
    from torch import nn

    from sousvit.data import ImageSet
    from sousvit.objectives.runtimes.runtime import Session

#: Ends of a two-sided 95% interval.
ENDS = (2.5, 97.5)


@dataclass(frozen=True, eq=False)
class BoxEvaluation(Evaluation):
    """Average precision on a split.

    Attributes:
        precision: boxes matched to objects.
        num_objects: to be found.
    """

    precision: MeanAveragePrecision
    num_objects: int

    @property
    def error(self) -> float:
        """1 - mAP50."""
        return 1.0 - self.precision.whole[MAP50]

    @property
    def least_error(self) -> float:
        """Half an object."""
        return 0.5 / max(1, self.num_objects)

    @property
    def chance(self) -> float:
        """Nothing is found without looking."""
        return 0.0

    def against(self, base: BoxEvaluation) -> BoxEvaluation:
        from sousvit.models.detector import sure_objects

        wanted = [sure_objects(found) for found in base.precision.found]
        return BoxEvaluation(self.precision.against(wanted), sum(map(len, wanted)))

    def merit(self) -> tuple[float, float, float]:
        return self.figures()[MAP50]

    def merit_drop(self, base: BoxEvaluation) -> tuple[float, float, float]:
        return paired_drop(base, self, MAP50)

    def resampled_merit(self) -> np.ndarray:
        return self.precision.resampled[MAP50]

    def figures(self) -> dict[str, tuple[float, float, float]]:
        """``map50`` and ``map``."""
        return {name: (self.precision.whole[name], *self.interval(name)) for name in (MAP50, MAP)}

    def interval(self, name: str) -> tuple[float, float]:
        """95% interval of ``map`` or ``map50``, within [0, 1]."""
        value, samples = self.precision.whole[name], self.precision.resampled[name]
        _, low, high = _spread(value, value + samples - samples.mean())
        return max(0.0, low), min(1.0, high)


def paired_drop(base: BoxEvaluation, other: BoxEvaluation, name: str) -> tuple[float, float, float]:
    """``base - other`` of ``map`` or ``map50`` on the same images, with its 95% interval: (drop, low, high).

    Raises:
        UserError: the two were not evaluated on the same images.
    """
    if base.precision.num_images != other.precision.num_images or base.num_objects != other.num_objects:
        raise UserError(
            "a paired difference compares the same images",
            f"{base.precision.num_images} and {other.precision.num_images} images",
            "evaluate both on one split",
        )
    drop = base.precision.whole[name] - other.precision.whole[name]
    return _spread(drop, base.precision.resampled[name] - other.precision.resampled[name])


def _spread(value: float, samples: np.ndarray) -> tuple[float, float, float]:
    """``value`` and the percentiles of its resamples, widened to hold it where they do not."""
    low, high = np.percentile(samples, ENDS)
    return value, min(value, float(low)), max(value, float(high))


class Detection(JudgingTask):
    """Boxes with classes."""

    name: ClassVar[Task] = "detection"
    quality: ClassVar[str] = MAP50
    heading: ClassVar[str] = "mAP50 %"

    def evaluate(
        self,
        session: Session,
        model: nn.Module,
        images: ImageSet,
        normalise: Callable[[torch.Tensor], torch.Tensor],
        batch: int,
    ) -> BoxEvaluation:
        import torch

        from sousvit.models.detector import head_of

        head = head_of(model)
        assert head is not None
        found = [
            boxes
            for dense in predictions(session, images, normalise, batch)
            for boxes in head.detections(torch.from_numpy(dense))
        ]
        wanted = images.targets(torch.arange(len(images)))
        return BoxEvaluation(MeanAveragePrecision(found, wanted, images.size, head.num_classes), sum(map(len, wanted)))
