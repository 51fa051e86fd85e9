"""The contract of a task: what a model's outputs mean, to whoever trains, prunes or quantizes it.

A task is spread over the rooms by what each may know, and every part is chosen by the model itself:

* *data* (:mod:`sousvit.data`): an ``ImageSet`` gives images and ``targets(rows)``; classes ``[B]``, or the
  objects of each image (``DetectionSet``). Views (augmentation) move both alike.
* *predictions*: one tensor an image, whatever the task: logits ``[B, classes]``, or a detector's dense predictions
  ``[B, positions, classes + 5]`` (:mod:`sousvit.models.detector`). So sessions, export, agreement and the teacher's
  stored answers need not know the task.
* *pseudo labels* (here): what predictions say is there, where nobody has labelled the images.
* *losses* (here): from the truth, from the teacher's stored answers, and how far two predictions are apart, which
  ranks blocks and units by the harm that their absence does.
* *metrics* with paired intervals (:mod:`sousvit.objectives.tasks.task`).

A new task is one class here, one there, and its data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from sousvit.models.detector import head_of
from sousvit.registry import Registry
from sousvit.spaces.tasks import BUILTIN
from sousvit.specs import Task

if TYPE_CHECKING:
    import torch
    from torch import nn

    from sousvit.data import ImageSet
    from sousvit.data.augment import View
    from sousvit.spaces.training.plan import TrainingPlan


class LearningTask(ABC):
    """Losses of one kind of model; stateless."""

    name: ClassVar[Task]
    #: Classes that a base needs so that its predictions can stand for labels.
    least_classes: ClassVar[int]

    def check(self, plan: TrainingPlan) -> None:  # noqa: B027 - most plans suit
        """Refuse a plan that makes no sense for the task.

        Raises:
            UserError: it does not suit.
        """

    @abstractmethod
    def targets(self, data: ImageSet, views: Sequence[View], rows: torch.Tensor, output: Any) -> Any:
        """What is true of the images at ``rows`` in each view, one view after the other, on the output's device."""

    @abstractmethod
    def loss(
        self, model: nn.Module, output: Any, targets: Any, taught: torch.Tensor | None, plan: TrainingPlan
    ) -> torch.Tensor:
        """Scalar: ``1 - soft - hard`` of the loss on true targets, ``soft`` and ``hard`` shares of the teacher's.

        Args:
            model: gave ``output``.
            output: predictions in training mode.
            targets: as :meth:`targets` gives them.
            taught: the teacher's predictions of the same images, or None.
            plan: weights and their parameters.
        """

    @abstractmethod
    def summed_loss(self, model: nn.Module, output: torch.Tensor, targets: Any) -> torch.Tensor:
        """Scalar: the loss of each image on its true targets, summed over the images."""

    @abstractmethod
    def divergence(self, output: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """How far predictions are from ``reference`` predictions of the same images; 0 where they are equal."""

    @abstractmethod
    def class_scores(self, output: torch.Tensor) -> torch.Tensor:
        """How sure predictions are that each class is in each image: log-probabilities ``[B, classes]``."""

    @abstractmethod
    def class_logits(self, output: torch.Tensor) -> torch.Tensor:
        """What two models can disagree on, ``[B, K]``: logits of the classes, at every position of a detector."""

    @abstractmethod
    def truth(self, model: nn.Module, output: torch.Tensor) -> dict[str, torch.Tensor]:
        """What predictions say is true of their images, a row an image, in the place of labels."""

    @abstractmethod
    def labelled(self, images: ImageSet, truth: Mapping[str, torch.Tensor]) -> ImageSet:
        """``images`` with what :meth:`truth` told of them as their targets.

        Raises:
            UserError: it tells nothing that could be judged on.
        """

    @abstractmethod
    def figures(self, model: nn.Module, outputs: torch.Tensor, data: ImageSet) -> dict[str, float]:
        """Named figures of merit of the predictions of all images of ``data``."""


LEARNING_TASKS: Registry[LearningTask] = Registry("task", None, BUILTIN)


def task_of(model: nn.Module) -> LearningTask:
    """What ``model`` is for, by its head."""
    return LEARNING_TASKS.get("classification" if head_of(model) is None else "detection")
