"""Closed-form repair: removed activations are predicted from kept ones, and the prediction is folded into weights.

One-shot ridge compensation in the manner of CORP (arXiv 2602.05243). A linear layer reads activations x that
split into kept units K and removed units R. With ``x_R ~ M x_K + c``,

    W_K x_K + W_R x_R + b  ~  (W_K + W_R M) x_K + (b + W_R c),

so the removed units cost nothing at inference and only what is unpredictable in them is lost.
All sums are float64. Pure tensor functions; :mod:`sousvit.spaces.calibration.stream` collects the activations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sousvit.errors import TrialError

#: Ridge penalty relative to the mean variance of the inputs.
RIDGE = 1e-3


@dataclass
class Moments:
    """Running sums of rows ``x [rows, inputs]`` and ``y [rows, outputs]``, enough for least squares of y on x.

    Attributes:
        count: rows so far.
        sum_x: ``[inputs]``.
        sum_y: ``[outputs]``.
        xx: sum of ``x^T x``, ``[inputs, inputs]``.
        xy: sum of ``x^T y``, ``[inputs, outputs]``.
    """

    count: int
    sum_x: torch.Tensor
    sum_y: torch.Tensor
    xx: torch.Tensor
    xy: torch.Tensor

    @classmethod
    def zeros(cls, inputs: int, outputs: int = 0) -> Moments:
        """No rows yet; ``outputs`` 0 keeps sums of x only."""

        def zero(*size: int) -> torch.Tensor:
            return torch.zeros(size, dtype=torch.float64)

        return cls(0, zero(inputs), zero(outputs), zero(inputs, inputs), zero(inputs, outputs))

    def add(self, x: torch.Tensor, y: torch.Tensor | None = None) -> None:
        """Add ``x [..., inputs]`` and ``y [..., outputs]`` of the same rows.

        A batch is multiplied in float32 (several times faster than float64) and summed in float64.
        """
        x = _rows(x)
        self.count += x.shape[0]
        self.sum_x += x.sum(0, dtype=torch.float64)
        with torch.autocast("cpu", enabled=False):  # which would round the products
            self.xx += (x.T @ x).double()
            if y is not None:
                y = _rows(y)
                self.sum_y += y.sum(0, dtype=torch.float64)
                self.xy += (x.T @ y).double()

    def covariance(self) -> torch.Tensor:
        """Covariance of x, ``[inputs, inputs]``."""
        mean = self.sum_x / self.count
        return self.xx / self.count - torch.outer(mean, mean)

    def select(self, kept: torch.Tensor, removed: torch.Tensor) -> Moments:
        """The moments of removed columns of x (as y) on kept ones (as x)."""
        rows = self.xx[kept]
        return Moments(self.count, self.sum_x[kept], self.sum_x[removed], rows[:, kept], rows[:, removed])


def _rows(x: torch.Tensor) -> torch.Tensor:
    """``[..., channels]`` as float32 (or float64) rows ``[rows, channels]``."""
    x = x.detach().reshape(-1, x.shape[-1])
    return x if x.dtype == torch.float64 else x.float()


def ridge_fit(moments: Moments, ridge: float = RIDGE, intercept: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Ridge regression ``y ~ M x + c``.

    Minimises ``mean |y - M x - c|^2 + penalty |M|^2`` with ``penalty = ridge * mean variance of x``.

    Args:
        moments: of x and y.
        ridge: relative penalty.
        intercept: without it c is zero and second moments take the place of variances.

    Returns:
        ``M [outputs, inputs]`` and ``c [outputs]``, float64.

    Raises:
        TrialError: the activations are not finite.
    """
    mean_x, mean_y = moments.sum_x / moments.count, moments.sum_y / moments.count
    xx, xy = moments.xx / moments.count, moments.xy / moments.count
    if intercept:
        xx, xy = xx - torch.outer(mean_x, mean_x), xy - torch.outer(mean_x, mean_y)
    scale = xx.diagonal().mean()
    if not (torch.isfinite(scale) and torch.isfinite(xy).all()):
        raise TrialError("calibration activations are not finite")
    if scale <= 0:  # constant inputs predict nothing but the mean
        slope = torch.zeros_like(xy)
    else:
        identity = torch.eye(len(xx), dtype=xx.dtype)
        slope = torch.linalg.solve(xx + ridge * scale * identity, xy)
    offset = mean_y - mean_x @ slope if intercept else torch.zeros_like(mean_y)
    return slope.T, offset


def fold_removed(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    kept: torch.Tensor,
    removed: torch.Tensor,
    moments: Moments,
    ridge: float = RIDGE,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weights of a linear layer that reads only its ``kept`` inputs and predicts what ``removed`` ones gave.

    Args:
        weight: ``[outputs, inputs]``.
        bias: ``[outputs]`` or None (then the prediction has no intercept either).
        kept: indices of inputs that stay.
        removed: indices of inputs that go.
        moments: of the inputs on calibration data.
        ridge: relative penalty.

    Returns:
        ``weight [outputs, kept]`` and the bias, in the dtype given.
    """
    slope, offset = ridge_fit(moments.select(kept, removed), ridge, intercept=bias is not None)
    gone = weight[:, removed].double()
    new_weight = (weight[:, kept].double() + gone @ slope).to(weight.dtype)
    return new_weight, None if bias is None else (bias.double() + gone @ offset).to(bias.dtype)
