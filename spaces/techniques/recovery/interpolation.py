"""Interpolation of weights: of those between the start of a recovery and its end, the closest to the base are kept.

A repaired model is often so good that a short training does more harm than good, and where training helps, weights on
the way from start to end are often better than the end (WiSE-FT, Wortsman et al., arXiv 2109.01903). The share is
chosen by the divergence from the base's predictions on calibration images, which needs no labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from sousvit.spaces.context import Context
from sousvit.spaces.tasks.task import task_of
from sousvit.spaces.training.loop import predict

if TYPE_CHECKING:
    from torch import nn

#: Shares of the way that are tried.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
#: Calibration images that decide.
IMAGES = 256

Weights = Mapping[str, torch.Tensor]


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all weights and buffers."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def settle(model: nn.Module, start: Weights, context: Context) -> float:
    """Move ``model`` to the best place between ``start`` and its present weights; returns that share of the way.

    Args:
        model: trained; changed in place.
        start: its weights before the training.
        context: with calibration images and a teacher; without them the model stays as it is.
    """
    if context.calibration is None or context.teacher is None:
        return SHARES[-1]
    images = context.calibration.head(IMAGES)
    reference, task, end = context.teacher.on(images), task_of(model), weights_of(model)
    found: dict[float, float] = {}
    for share in SHARES:
        model.load_state_dict(between(start, end, share))
        output = predict(model, images, context.normalise, precision=context.precision)  # type: ignore[arg-type]
        found[share] = float(task.divergence(output, reference))
    best = min(found, key=lambda share: (found[share], -share))
    model.load_state_dict(between(start, end, best))
    return best


def between(start: Weights, end: Weights, share: float) -> dict[str, torch.Tensor]:
    """``share`` of the way from ``start`` to ``end``; counters and the like are the end's."""
    return {
        name: torch.lerp(start[name], value, share) if value.is_floating_point() else value
        for name, value in end.items()
    }
