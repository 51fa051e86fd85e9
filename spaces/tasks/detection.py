"""Detection: FCOS's loss, and distillation of a detector's dense predictions.

The student has the teacher's positions, so every position's prediction is taught, weighted by how sure the teacher is
that something is there. Classes: the quality focal loss (Li et al., arXiv 2006.04388) with the teacher's probabilities
as its soft targets, and boxes: the generalised IoU with the teacher's box, both as in CrossKD (Wang et al.,
arXiv 2306.11369); centerness: cross entropy with the teacher's. Hard labels are what the teacher finds after
suppression (pseudo boxes, as in STAC, Sohn et al., arXiv 2005.04757). Features:
:mod:`sousvit.spaces.training.transfer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, cast

import torch
import torch.nn.functional as F

from sousvit.data.augment import MOVES_BOXES
from sousvit.data.detection import DetectionSet, Objects, reboxed
from sousvit.errors import UserError
from sousvit.models.detector import EXTRA, MOST_BOXES, SURE, DetectionHead, head_of, sure_objects
from sousvit.spaces.tasks.task import LearningTask
from sousvit.specs import Task

if TYPE_CHECKING:
    from torch import nn

    from sousvit.data import ImageSet
    from sousvit.data.augment import View
    from sousvit.spaces.training.plan import TrainingPlan

#: The label of a row that holds no object.
NOTHING = -1


class Detection(LearningTask):
    """Boxes with classes."""

    name: ClassVar[Task] = "detection"
    least_classes: ClassVar[int] = 1

    def check(self, plan: TrainingPlan) -> None:
        require_moving(plan.augmentation)
        if plan.label_smoothing:
            raise UserError("the focal loss of a detector has no label smoothing", plan.label_smoothing, "set it to 0")

    def targets(self, data: ImageSet, views: Sequence[View], rows: torch.Tensor, output: torch.Tensor) -> list[Objects]:
        """The objects of each image in its view."""
        if not isinstance(data, DetectionSet):
            raise UserError("a detector learns from images with boxes", type(data).__name__, "use format voc or coco")
        found = [objects for view in views for objects in view.objects(data, rows)]
        return [Objects(one.boxes.to(output.device), one.labels.to(output.device)) for one in found]

    def loss(
        self,
        model: nn.Module,
        output: torch.Tensor,
        targets: list[Objects],
        taught: torch.Tensor | None,
        plan: TrainingPlan,
    ) -> torch.Tensor:
        head, output = _head(model), output.float()
        true_weight = 1.0 - plan.soft_weight - plan.hard_weight
        total = output.new_zeros(())
        if true_weight > 0:
            total = total + true_weight * head.loss(output, [one.as_target() for one in targets])
        if taught is not None and plan.soft_weight > 0:
            total = total + plan.soft_weight * dense_distance(output, taught.float())
        if taught is not None and plan.hard_weight > 0:
            total = total + plan.hard_weight * head.loss(output, [one.as_target() for one in _sure(head, taught)])
        return total

    def summed_loss(self, model: nn.Module, output: torch.Tensor, targets: list[Objects]) -> torch.Tensor:
        """Scalar: each image's loss, divided by its own number of matched positions, summed over the images."""
        head = _head(model)
        losses = [head.loss(one[None], [target.as_target()]) for one, target in zip(output, targets, strict=True)]
        return torch.stack(losses).sum()

    def divergence(self, output: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        return dense_distance(output, reference)

    def class_scores(self, output: torch.Tensor) -> torch.Tensor:
        return F.logsigmoid(_class_part(output)).amax(1)

    def class_logits(self, output: torch.Tensor) -> torch.Tensor:
        return _class_part(output).flatten(1)

    def truth(self, model: nn.Module, output: torch.Tensor) -> dict[str, torch.Tensor]:
        """``boxes [B, 100, 4]`` in pixels and ``labels [B, 100]``, -1 where there is none."""
        sure = _sure(_head(model), output)
        boxes = torch.zeros(len(sure), MOST_BOXES, 4)
        labels = torch.full((len(sure), MOST_BOXES), NOTHING)
        for row, one in enumerate(sure):
            boxes[row, : len(one)], labels[row, : len(one)] = one.boxes, one.labels
        return {"boxes": boxes, "labels": labels}

    def labelled(self, images: ImageSet, truth: Mapping[str, torch.Tensor]) -> DetectionSet:
        pairs = zip(truth["boxes"], truth["labels"], strict=True)
        objects = [Objects(boxes, labels).select(labels != NOTHING) for boxes, labels in pairs]
        if not any(map(len, objects)):
            raise UserError(
                "without labels, the base must find something to judge on",
                f"no box with a score of {SURE} in {len(images)} images",
                "name images like those it was trained on, or labelled data",
            )
        return reboxed(images, objects)

    def figures(self, model: nn.Module, outputs: torch.Tensor, data: ImageSet) -> dict[str, float]:
        """``map50`` and ``map``."""
        from sousvit.models.mean_ap import MAP, MAP50, MeanAveragePrecision

        head, data = _head(model), cast(DetectionSet, data)
        found = head.detections(outputs)
        whole = MeanAveragePrecision(found, data.targets(torch.arange(len(data))), data.size, head.num_classes).whole
        return {MAP50: whole[MAP50], MAP: whole[MAP]}


def require_moving(augmentation: str) -> None:
    """Refuse augmentation under which nobody knows where boxes are.

    Raises:
        UserError: such a policy.
    """
    if augmentation not in MOVES_BOXES:
        raise UserError(
            "a detector's augmentation moves boxes too", augmentation, f"choose one of {', '.join(MOVES_BOXES)}"
        )


def _head(model: nn.Module) -> DetectionHead:
    head = head_of(model)
    assert head is not None
    return head


def _sure(head: DetectionHead, taught: torch.Tensor) -> list[Objects]:
    return [sure_objects(found) for found in head.detections(taught)]


def dense_distance(output: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """How far dense predictions are from a reference's, a scalar; 0 where they are equal.

    ``sum_i [ QFL(p_i, q_i) + w_i (1 - GIoU(b_i, b'_i)) + w_i KL(c'_i || c_i) ] / sum_i w_i`` over positions i with
    ``w_i`` the reference's largest class probability; p, b, c are classes, box and centerness, q, b', c' the
    reference's.

    Args:
        output: ``[B, positions, classes + 5]``.
        reference: likewise.
    """
    from torchvision.ops import generalized_box_iou_loss

    classes = output.shape[2] - EXTRA
    logits, sides, centre = output.split([classes, 4, 1], dim=2)
    taught_logits, taught_sides, taught_centre = reference.split([classes, 4, 1], dim=2)
    taught = taught_logits.sigmoid()
    weight = taught.amax(2)
    focal = (logits.sigmoid() - taught).abs() * F.binary_cross_entropy_with_logits(logits, taught, reduction="none")
    boxes = generalized_box_iou_loss(_around(sides), _around(taught_sides))
    likely = taught_centre.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(taught_centre, likely, reduction="none")
    centres = F.binary_cross_entropy_with_logits(centre, likely, reduction="none") - entropy
    return (focal.sum() + (weight * (boxes + centres[..., 0])).sum()) / weight.sum().clamp_min(1.0)


def _class_part(output: torch.Tensor) -> torch.Tensor:
    """The class logits ``[B, positions, classes]`` of dense predictions."""
    return output[..., : output.shape[2] - EXTRA]


def _around(sides: torch.Tensor) -> torch.Tensor:
    """Boxes from distances ``[..., 4]`` to their sides, around the position; GIoU is the same in any unit."""
    return torch.cat([-sides[..., :2], sides[..., 2:]], dim=-1)
