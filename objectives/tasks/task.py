"""The contract of judging a task: an artifact's predictions on a split, their figure of merit, and its intervals.

The other half of a task, its losses, is :mod:`sousvit.spaces.tasks.task`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from sousvit.objectives.tasks import BUILTIN
from sousvit.registry import Registry
from sousvit.specs import Task

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from sousvit.data import ImageSet
    from sousvit.objectives.runtimes.runtime import Session


class Evaluation(ABC):
    """What an artifact predicted on a split, against the truth."""

    @property
    @abstractmethod
    def error(self) -> float:
        """Share that is wrong, in [0, 1]: one minus the task's figure of merit."""

    @property
    @abstractmethod
    def least_error(self) -> float:
        """The error that the split could not tell from none."""

    @property
    @abstractmethod
    def chance(self) -> float:
        """The figure of merit of the best answer that looks at no image."""

    @abstractmethod
    def against(self, base: Any) -> Evaluation:
        """The same with the predictions of ``base`` in the place of the truth: what there is to say without labels."""

    @abstractmethod
    def merit(self) -> tuple[float, float, float]:
        """The task's figure of merit with the ends of its 95% interval."""

    @abstractmethod
    def merit_drop(self, base: Any) -> tuple[float, float, float]:
        """How much lower it is than that of ``base`` on the same images, with its paired 95% interval.

        Raises:
            UserError: the two were not evaluated on the same images.
        """

    @abstractmethod
    def resampled_merit(self) -> np.ndarray:
        """The figure of merit on bootstrap samples of the images, the same ones for every evaluation of a split."""

    @abstractmethod
    def figures(self) -> dict[str, tuple[float, float, float]]:
        """Named figures with the ends of their 95% intervals."""


class JudgingTask(ABC):
    """One kind of evaluation; stateless.

    Class attributes:
        name: of the task.
        quality: the objective that is its figure of merit, a share.
        heading: of that figure in tables, in per cent.
    """

    name: ClassVar[Task]
    quality: ClassVar[str]
    heading: ClassVar[str]

    @abstractmethod
    def evaluate(
        self,
        session: Session,
        model: nn.Module,
        images: ImageSet,
        normalise: Callable[[torch.Tensor], torch.Tensor],
        batch: int,
    ) -> Evaluation:
        """Predict every image of the split in its order and compare with the truth.

        Args:
            session: takes any batch size; a pool of one a core is fastest.
            model: the PyTorch model that was exported, for what its outputs mean.
            images: uint8 images and their targets.
            normalise: uint8 ``[B, C, H, W]`` to the model's float input.
            batch: images a run.

        Raises:
            UserError: the split is empty.
            TrialError: a prediction is not finite, or the session failed.
        """


def predictions(
    session: Session, images: ImageSet, normalise: Callable[[torch.Tensor], torch.Tensor], batch: int
) -> Iterable[np.ndarray]:
    """What the session gives for every image, a batch at a time; see :meth:`JudgingTask.evaluate`."""
    import numpy as np
    import torch

    from sousvit.errors import TrialError, UserError
    from sousvit.machine import torch_threads

    if len(images) == 0:
        raise UserError("a split to judge on must hold images", 0, "correct the data")

    def prepared(positions: torch.Tensor) -> np.ndarray:
        # PyTorch's other threads would wait for work on cores that the session needs (5 to 8 ms a batch, measured).
        with torch_threads(1):
            return normalise(images.images(positions)).float().numpy()

    for found in session.run_all(map(prepared, torch.arange(len(images)).split(batch))):
        if not np.isfinite(found).all():
            raise TrialError("the artifact gives logits that are not finite")
        yield found


JUDGING_TASKS: Registry[JudgingTask] = Registry("task", None, BUILTIN)


def task_measured(names: Iterable[str]) -> JudgingTask:
    """The task whose figure of merit is among ``names`` of objectives, as in every base and finished trial.

    Where none is (a trial that ended before it was judged), classification.
    """
    known = set(names)
    return next((task for task in JUDGING_TASKS if task.quality in known), JUDGING_TASKS.get("classification"))
