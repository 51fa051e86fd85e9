"""The plan of a training, and the types of what the loop calls: normalisation, teacher, networks, progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from sousvit.machine import Precision
from sousvit.specs import OptimizerName, Policy

#: uint8 images to the model's float input.
Normalise = Callable[[torch.Tensor], torch.Tensor]


#: (view) to the teacher's predictions ``[N, ...]`` on it.
TeacherLogits = Callable[[int], torch.Tensor]


#: ``[B, ...]``; a classifier with a distillation token gives two in training.
Predictions = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


#: (step) to the networks that learn together in it, from normalised images to :data:`Predictions`,
#: such as the parts of an elastic base (:mod:`sousvit.spaces.techniques.elastic`).
Networks = Callable[[int], Sequence[Callable[[torch.Tensor], Predictions]]]


#: (epoch, step, steps per epoch, loss)
Progress = Callable[[int, int, int, float], None]


@dataclass(frozen=True)
class TrainingPlan:
    """Settings of one training.

    Args:
        epochs: passes over the training images; the last one may be part of a pass.
        learning_rate: peak of the one-cycle (linear warm-up, cosine) schedule.
        optimizer: ``muon`` (with AdamW for what is no matrix of a block) or ``adamw``.
        batch_size: images a step.
        weight_decay: on matrices only.
        label_smoothing: of the cross entropy on true labels.
        augmentation: policy of the views.
        soft_weight: share of the soft distillation loss in [0, 1].
        hard_weight: share of the teacher's hard label in [0, 1]; the rest is the true label's.
        temperature: of the soft targets.
        num_views: views drawn before they repeat (teacher logits are stored per view).
        repeats: views of each image in a batch (repeated augmentation, Hoffer et al., arXiv 1901.09335); an epoch
            then reads a ``repeats``-th of the images.
        warmup: share of the steps in which the learning rate rises.
        seed: of batches and views.
        precision: see :mod:`sousvit.machine`.
    """

    epochs: float
    learning_rate: float = 1e-3
    optimizer: OptimizerName = "adamw"
    batch_size: int = 128
    weight_decay: float = 0.05
    label_smoothing: float = 0.0
    augmentation: Policy = "crop_flip"
    soft_weight: float = 0.0
    hard_weight: float = 0.0
    temperature: float = 2.0
    num_views: int = 1_000_000
    repeats: int = 1
    warmup: float = 0.1
    seed: int = 0
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        assert self.soft_weight >= 0 and self.hard_weight >= 0 and self.soft_weight + self.hard_weight <= 1 + 1e-9
