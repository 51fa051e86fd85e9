"""Classification: cross entropy, and distillation from a teacher's logits.

Distillation: soft targets at a temperature (Hinton et al., arXiv 1503.02531) or the teacher's hard label
(DeiT, arXiv 2012.12877).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F

from sousvit.data.memory import relabelled
from sousvit.spaces.tasks.task import LearningTask
from sousvit.specs import Task

if TYPE_CHECKING:
    from torch import nn

    from sousvit.data import ImageSet
    from sousvit.data.augment import View
    from sousvit.spaces.training.plan import TrainingPlan

#: ``[B, classes]``; a model with a distillation token gives two in training.
Logits = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


class Classification(LearningTask):
    """One class an image."""

    name: ClassVar[Task] = "classification"
    least_classes: ClassVar[int] = 2

    def targets(self, data: ImageSet, views: Sequence[View], rows: torch.Tensor, output: Logits) -> torch.Tensor:
        """Classes ``[B]``, or shares of them ``[B, classes]`` where images are mixed."""
        logits = output[0] if isinstance(output, tuple) else output
        labels = torch.cat([view.targets(data.labels, rows, logits.shape[1]) for view in views])
        return labels.to(logits.device)

    def loss(
        self, model: nn.Module, output: Logits, targets: torch.Tensor, taught: torch.Tensor | None, plan: TrainingPlan
    ) -> torch.Tensor:
        return total_loss(output, targets, taught, plan)

    def summed_loss(self, model: nn.Module, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(output, targets, reduction="sum")

    def divergence(self, output: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """KL divergence of the reference's class probabilities from the output's, averaged over images."""
        log_output, log_reference = F.log_softmax(output, dim=-1), F.log_softmax(reference, dim=-1)
        return F.kl_div(log_output, log_reference, reduction="batchmean", log_target=True)

    def class_scores(self, output: torch.Tensor) -> torch.Tensor:
        return output.log_softmax(1)

    def class_logits(self, output: torch.Tensor) -> torch.Tensor:
        return output

    def truth(self, model: nn.Module, output: torch.Tensor) -> dict[str, torch.Tensor]:
        """``labels [B]``: the classes of the largest logits."""
        return {"labels": output.argmax(1)}

    def labelled(self, images: ImageSet, truth: Mapping[str, torch.Tensor]) -> ImageSet:
        return relabelled(images, truth["labels"])

    def figures(self, model: nn.Module, outputs: torch.Tensor, data: ImageSet) -> dict[str, float]:
        """``top1``: share of images whose largest logit is the label's."""
        return {"top1": float((outputs.argmax(1) == data.labels).double().mean())}


def total_loss(
    output: Logits,
    targets: torch.Tensor,
    teacher_logits: torch.Tensor | None,
    plan: TrainingPlan,
) -> torch.Tensor:
    """The distillation loss; of a model with a distillation token, true labels teach the class token and the
    teacher the distillation token (DeiT, arXiv 2012.12877)."""
    if isinstance(output, tuple):
        by_label, by_teacher = (logits.float() for logits in output)
        taught = plan.soft_weight + plan.hard_weight
        true = (1 - taught) * _label_loss(by_label, targets, plan)
        return true + _teacher_loss(by_teacher, teacher_logits, plan)
    return distillation_loss(output.float(), targets, teacher_logits, plan)


def distillation_loss(
    output: torch.Tensor, targets: torch.Tensor, teacher_logits: torch.Tensor | None, plan: TrainingPlan
) -> torch.Tensor:
    """The weighted sum of true-label, soft and hard losses.

    Args:
        output: student logits ``[B, classes]``.
        targets: true labels ``[B]``, or shares of the classes ``[B, classes]``.
        teacher_logits: ``[B, classes]`` or None.
        plan: weights, temperature and label smoothing.

    Returns:
        ``(1 - s - h) CE(y) + s T^2 KL(teacher_T || student_T) + h CE(argmax teacher)``, a scalar.
    """
    true_weight = 1.0 - plan.soft_weight - plan.hard_weight
    loss = _teacher_loss(output, teacher_logits, plan)
    return loss + true_weight * _label_loss(output, targets, plan) if true_weight > 0 else loss


def _label_loss(output: torch.Tensor, targets: torch.Tensor, plan: TrainingPlan) -> torch.Tensor:
    return F.cross_entropy(output, targets, label_smoothing=plan.label_smoothing)


def _teacher_loss(output: torch.Tensor, teacher_logits: torch.Tensor | None, plan: TrainingPlan) -> torch.Tensor:
    loss = output.new_zeros(())
    if teacher_logits is None:
        return loss
    teacher_logits = teacher_logits.float()
    if plan.soft_weight > 0:
        student = F.log_softmax(output / plan.temperature, dim=1)
        target = F.log_softmax(teacher_logits / plan.temperature, dim=1)
        divergence = F.kl_div(student, target, reduction="batchmean", log_target=True)
        loss = loss + plan.soft_weight * plan.temperature**2 * divergence
    if plan.hard_weight > 0:
        loss = loss + plan.hard_weight * F.cross_entropy(output, teacher_logits.argmax(1))
    return loss
