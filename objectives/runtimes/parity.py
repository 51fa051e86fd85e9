"""Parity: whether the deployed session computes what the PyTorch model computes, seen through the session itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sousvit.errors import TrialError

if TYPE_CHECKING:
    from torch import nn

    from sousvit.objectives.runtimes.runtime import Session

#: Relative error above which a float artifact is wrong; fp32 exports were measured at about 1e-6.
FLOAT_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Parity:
    """How far the deployed logits are from the model's.

    Attributes:
        max_abs: largest absolute difference.
        relative: Euclidean norm of the difference over that of the model's logits.
        top1_match: share of images (of a detector: of positions) with the same largest output.
        finite: whether all deployed logits are finite.
    """

    max_abs: float
    relative: float
    top1_match: float
    finite: bool


def parity(session: Session, model: nn.Module, images: np.ndarray) -> Parity:
    """Compare on normalised images float32 ``[B, C, H, W]``, which both get as one batch."""
    import torch

    with torch.inference_mode():
        wanted = model(torch.from_numpy(images)).float().numpy()
    got = session.run(images)
    if got.shape != wanted.shape:
        raise TrialError(f"the artifact gives predictions {list(got.shape)}, the model {list(wanted.shape)}")
    difference = got.astype(np.float64) - wanted
    finite = bool(np.isfinite(got).all())
    norm = float(np.linalg.norm(wanted))
    return Parity(
        max_abs=float(np.abs(difference).max()),
        relative=float(np.linalg.norm(difference)) / max(norm, 1e-12),
        top1_match=float((got.argmax(-1) == wanted.argmax(-1)).mean()),
        finite=finite,
    )


def check_parity(session: Session, model: nn.Module, images: np.ndarray, quantized: bool) -> Parity:
    """:func:`parity`, or a failed trial.

    Quantized artifacts may differ (their accuracy judges them); their logits must only be finite.

    Raises:
        TrialError: logits are not finite, or a float artifact is further off than ``FLOAT_TOLERANCE``.
    """
    found = parity(session, model, images)
    if not found.finite:
        raise TrialError("the artifact gives logits that are not finite")
    if not quantized and found.relative > FLOAT_TOLERANCE:
        raise TrialError(f"the artifact disagrees with the PyTorch model: relative error {found.relative:.2g}")
    return found
