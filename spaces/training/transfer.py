"""Feature and attention transfer: the student's last representation follows the teacher's, beside its logits.

* Features: the pooled representation in front of the classifier, through a linear projection where widths differ
  (FitNets, Romero et al., arXiv 1412.6550; normalised as in VkD, 2403.06213). Of a detector: the map that its pyramid
  starts from, normalised likewise (feature maps after normalisation suit detectors: PKD, 2207.02039); student and
  teacher have it in the same size.
* Attention: where the activations are strong, as a map over the image (attention transfer, Zagoruyko and Komodakis,
  arXiv 1612.03928), averaged onto the smaller of both patch grids.

Both are stored per view like the logits: a pooled vector and one number per patch take little room; a detector's maps
take ``channels`` numbers a patch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from sousvit.models.class_and_mean import ClassAndMean
from sousvit.models.detector import head_of
from sousvit.spaces.calibration.stream import captured_inputs

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Representation:
    """Outputs of a model that transfer compares.

    Attributes:
        logits: ``[B, classes]``, or the two outputs of a model with a distillation token in training; a detector's
            dense predictions.
        pooled: ``[B, width]``, in front of the classifier; a detector's map ``[B, channels, rows, columns]``.
        strength: ``[B, rows, columns]``, mean squared activation of every patch, or None without a grid of patches.
    """

    logits: torch.Tensor | tuple[torch.Tensor, torch.Tensor]
    pooled: torch.Tensor
    strength: torch.Tensor | None


def represent(model: Any, images: torch.Tensor) -> Representation:
    """Run a timm model and keep what transfer needs."""
    last_norm = getattr(model, "norm", None)
    has_grid = hasattr(model, "patch_embed") and hasattr(model, "num_prefix_tokens") and last_norm is not None
    watched: list[nn.Module] = [model.norm] if has_grid else []
    with captured_inputs(watched) as found:
        features = model.forward_features(images)
    strength = _strength(model, found[0]) if has_grid else None
    detector = head_of(model)
    if detector is not None:
        map_ = detector.features(features)
        return Representation(detector.dense(map_), map_, strength)
    logits = model.forward_head(features)
    head = getattr(model, "head", None)
    pooled = head.pooled(features) if isinstance(head, ClassAndMean) else model.forward_head(features, pre_logits=True)
    if isinstance(pooled, tuple):  # class and distillation token
        pooled = (pooled[0] + pooled[1]) / 2
    return Representation(logits, pooled, strength)


def _strength(model: Any, tokens: torch.Tensor) -> torch.Tensor | None:
    rows, columns = model.patch_embed.grid_size
    patches = tokens[:, model.num_prefix_tokens :]
    if patches.shape[1] != rows * columns:
        return None
    return patches.square().mean(-1).unflatten(1, (rows, columns))


#: (view) to the teacher's pooled features ``[N, width]`` (or maps) and maps ``[N, rows, columns]`` on it.
TeacherFeatures = Callable[[int], tuple[torch.Tensor, torch.Tensor | None]]


class Transfer(nn.Module):
    """The extra loss of a student; its projection is trained with the student and then discarded.

    Args:
        features: the teacher's, by view.
        student_width: channels of the student's pooled representation.
        teacher_width: of the teacher's.
        feature_weight: of the feature loss, at least 0.
        attention_weight: of the attention loss, at least 0.
    """

    def __init__(
        self,
        features: TeacherFeatures,
        student_width: int,
        teacher_width: int,
        feature_weight: float,
        attention_weight: float,
    ) -> None:
        super().__init__()
        self._features = features
        self._weights = feature_weight, attention_weight
        same = student_width == teacher_width
        self.projection = nn.Identity() if same else nn.Linear(student_width, teacher_width, bias=False)

    def loss(self, student: Representation, views: Sequence[int], rows: torch.Tensor) -> torch.Tensor:
        """The loss, a scalar; ``rows`` are positions in the training set, which the batch holds once for each view."""
        found = [self._features(view) for view in views]
        pooled = torch.cat([features[rows] for features, _ in found]).float()
        feature_weight, attention_weight = self._weights
        total = student.pooled.new_zeros(())
        if feature_weight:
            # Some models (EfficientViT, RepViT) leave autocast with features in bf16.
            total = total + feature_weight * feature_loss(self.projection(student.pooled.float()), pooled)
        maps = [strength[rows] for _, strength in found if strength is not None]
        if attention_weight and maps and student.strength is not None:
            total = total + attention_weight * attention_loss(student.strength, torch.cat(maps).float())
        return total


def feature_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of both representations ``[B, ...]`` after each image's is normalised to unit variance."""
    width = student.shape[1:]
    return F.mse_loss(F.layer_norm(student, width), F.layer_norm(teacher.to(student.device), width))


def attention_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Squared distance of the maps ``[B, rows, columns]``, each of unit norm on the smaller grid."""
    rows, columns = (min(sizes) for sizes in zip(student.shape[1:], teacher.shape[1:], strict=True))
    maps = [F.adaptive_avg_pool2d(map_[:, None], (rows, columns)).flatten(1) for map_ in (student, teacher)]
    one, other = (F.normalize(map_.to(student.device), dim=1) for map_ in maps)
    return (one - other).square().sum(1).mean()


@contextmanager
def distilled_training(model: Any) -> Iterator[None]:
    """Let a model with a distillation token return both its outputs in training, inside the block (timm's switch)."""
    switch = getattr(model, "set_distilled_training", None)
    if switch is not None:
        switch(True)
    try:
        yield
    finally:
        if switch is not None:
            switch(False)
