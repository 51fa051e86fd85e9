"""Image classification: predictions of an artifact in its runtime, top-1, and intervals on its differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from sousvit.errors import UserError
from sousvit.objectives.tasks.task import Evaluation, JudgingTask, predictions
from sousvit.specs import Task

if TYPE_CHECKING:
    import torch
    from torch import nn

    from sousvit.data import ImageSet
    from sousvit.objectives.runtimes.runtime import Session

#: Bootstrap samples of the images.
RESAMPLES = 2000
#: Normal quantile of a two-sided 95% interval.
Z = 1.959963984540054


@dataclass(frozen=True, eq=False)
class TopOneEvaluation(Evaluation):
    """Predicted classes on a split.

    Attributes:
        predictions: int64 ``[N]``, the class of the largest logit.
        labels: int64 ``[N]``.
    """

    predictions: np.ndarray
    labels: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """Bool ``[N]``."""
        return np.asarray(self.predictions == self.labels)

    @property
    def top1(self) -> float:
        """Share of correct predictions, in [0, 1]."""
        return float(self.correct.mean())

    @property
    def error(self) -> float:
        """1 - top-1."""
        return 1.0 - self.top1

    @property
    def least_error(self) -> float:
        """Half an image."""
        return 0.5 / len(self.labels)

    @property
    def chance(self) -> float:
        """The share of the most frequent class."""
        return float(np.bincount(self.labels).max() / len(self.labels))

    def against(self, base: TopOneEvaluation) -> TopOneEvaluation:
        return replace(self, labels=base.predictions)

    def merit(self) -> tuple[float, float, float]:
        return (self.top1, *interval(self))

    def merit_drop(self, base: TopOneEvaluation) -> tuple[float, float, float]:
        return paired_difference(base, self)

    def resampled_merit(self) -> np.ndarray:
        random, correct, count = np.random.default_rng(0), self.correct, len(self.labels)
        return np.array([correct[random.integers(0, count, count)].mean() for _ in range(RESAMPLES)])

    def figures(self) -> dict[str, tuple[float, float, float]]:
        """``top1``."""
        return {"top1": self.merit()}


class Classification(JudgingTask):
    """One class an image."""

    name: ClassVar[Task] = "classification"
    quality: ClassVar[str] = "accuracy"
    heading: ClassVar[str] = "top-1 %"

    def evaluate(
        self,
        session: Session,
        model: nn.Module,
        images: ImageSet,
        normalise: Callable[[torch.Tensor], torch.Tensor],
        batch: int,
    ) -> TopOneEvaluation:
        return evaluate(session, images, normalise, batch)


def evaluate(
    session: Session, images: ImageSet, normalise: Callable[[torch.Tensor], torch.Tensor], batch: int = 64
) -> TopOneEvaluation:
    """The classes that the session predicts; see :meth:`JudgingTask.evaluate`."""
    classes = [logits.argmax(axis=1) for logits in predictions(session, images, normalise, batch)]
    return TopOneEvaluation(np.concatenate(classes).astype(np.int64), images.labels.numpy().astype(np.int64))


def interval(evaluation: TopOneEvaluation) -> tuple[float, float]:
    """95% Wilson score interval of top-1."""
    return wilson(int(evaluation.correct.sum()), len(evaluation.correct))


def wilson(successes: int, total: int) -> tuple[float, float]:
    """95% Wilson score interval of a share (Wilson 1927)."""
    share = successes / total
    centre = (share + Z**2 / (2 * total)) / (1 + Z**2 / total)
    half = Z / (1 + Z**2 / total) * float(np.sqrt(share * (1 - share) / total + Z**2 / (4 * total**2)))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(base: TopOneEvaluation, other: TopOneEvaluation) -> tuple[float, float, float]:
    """Accuracy drop ``base - other`` on the same images, with its 95% interval: (drop, low, high).

    Newcombe's square-and-add interval for paired proportions with the correlation term (Statistics in Medicine
    17, 1998, method 10). It stays honest where the usual Wald interval collapses to zero width: few or no
    discordant images.

    Raises:
        UserError: the two were not evaluated on the same images.
    """
    if not np.array_equal(base.labels, other.labels):
        raise UserError(
            "a paired difference compares the same images",
            f"{len(base.labels)} and {len(other.labels)} labels",
            "evaluate both on one split",
        )
    return _newcombe(base.correct, other.correct)


def _newcombe(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    total = len(first)
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    share1, share2 = (both + only_first) / total, (both + only_second) / total
    low1, high1 = wilson(both + only_first, total)
    low2, high2 = wilson(both + only_second, total)
    phi = _correlation(both, only_first, only_second, neither)
    difference = share1 - share2
    below = (share1 - low1) ** 2 - 2 * phi * (share1 - low1) * (high2 - share2) + (high2 - share2) ** 2
    above = (high1 - share1) ** 2 - 2 * phi * (high1 - share1) * (share2 - low2) + (share2 - low2) ** 2
    return difference, difference - float(np.sqrt(max(below, 0.0))), difference + float(np.sqrt(max(above, 0.0)))


def _correlation(both: int, only_first: int, only_second: int, neither: int) -> float:
    """Phi of the 2 x 2 table, 0 where a margin is empty; with Newcombe's continuity correction when positive."""
    total = both + only_first + only_second + neither
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    if margins == 0:
        return 0.0
    product = float(both * neither - only_first * only_second)
    if product > 0:
        product = max(product - total / 2, 0.0)
    return product / float(np.sqrt(float(margins)))
