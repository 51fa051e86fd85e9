"""Linear layers as products of two thin matrices, by (whitened) singular value decomposition.

Plain SVD gives the nearest matrix of a rank; what matters is the nearest *output* on real inputs. With the inputs'
second moment ``C = L L^T`` the truncated SVD of ``W L`` gives it exactly (SVD-LLM, Wang et al., arXiv 2403.07378):
``min |W X - B A X|_F`` over rank r is reached by ``B = U_r S_r``, ``A = V_r^T L^-1``. Where a layer has a bias,
inputs are centred, and the bias takes the mean's share.
"""

from __future__ import annotations

import torch
from torch import nn

from sousvit.errors import TrialError
from sousvit.spaces.calibration.repair import Moments

#: Added to the second moment's diagonal, relative to its mean, so that unused input directions stay defined.
DAMPING = 1e-5


class LowRankLinear(nn.Module):
    """``y = up(down(x))`` in place of an ``nn.Linear``.

    Args:
        down: ``[rank, inputs]``.
        up: ``[outputs, rank]``.
        bias: ``[outputs]`` or None.
    """

    def __init__(self, down: torch.Tensor, up: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.down = nn.Linear(down.shape[1], down.shape[0], bias=False, device="meta")
        self.up = nn.Linear(up.shape[1], up.shape[0], bias=bias is not None, device="meta")
        self.down.weight, self.up.weight = nn.Parameter(down.detach().clone()), nn.Parameter(up.detach().clone())
        if bias is not None:
            self.up.bias = nn.Parameter(bias.detach().clone())

    @property
    def in_features(self) -> int:
        """Width of the input."""
        return self.down.in_features

    @property
    def out_features(self) -> int:
        """Width of the output."""
        return self.up.out_features

    @property
    def rank(self) -> int:
        """Channels between the two products."""
        return self.down.out_features

    @property
    def weight(self) -> torch.Tensor:
        """The product ``[outputs, inputs]``."""
        return self.up.weight @ self.down.weight

    @property
    def bias(self) -> torch.Tensor | None:
        """Bias of the output."""
        return self.up.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., inputs]`` to ``[..., outputs]``."""
        out: torch.Tensor = self.up(self.down(x))
        return out


def rank_of(layer: nn.Module) -> int:
    """The rank of a factored layer, 0 of a full one."""
    return layer.rank if isinstance(layer, LowRankLinear) else 0


def reading_layer(layer: nn.Module) -> nn.Linear:
    """The part of a linear layer that reads its input."""
    found = layer.down if isinstance(layer, LowRankLinear) else layer
    assert isinstance(found, nn.Linear)
    return found


def writing_layer(layer: nn.Module) -> nn.Linear:
    """The part of a linear layer that writes its output."""
    found = layer.up if isinstance(layer, LowRankLinear) else layer
    assert isinstance(found, nn.Linear)
    return found


def factor(weight: torch.Tensor, rank: int, moment: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """(down ``[rank, inputs]``, up ``[outputs, rank]``) nearest to ``weight``.

    Args:
        weight: ``[outputs, inputs]``.
        rank: at most the smaller side.
        moment: ``E[x x^T] [inputs, inputs]`` of what the layer reads; None for the nearest matrix itself.

    Raises:
        TrialError: the moment is not finite.
    """
    double = weight.detach().double()
    if moment is None:
        u, s, vt = torch.linalg.svd(double, full_matrices=False)
        down = s[:rank, None].sqrt() * vt[:rank]
        return down.to(weight.dtype), (u[:, :rank] * s[:rank].sqrt()).to(weight.dtype)
    root, inverse = whitening(moment)
    u, s, vt = torch.linalg.svd(double @ root, full_matrices=False)
    scale = s[:rank].sqrt()
    down = (scale[:, None] * vt[:rank]) @ inverse
    return down.to(weight.dtype), (u[:, :rank] * scale).to(weight.dtype)


def energies(weight: torch.Tensor, moment: torch.Tensor | None) -> torch.Tensor:
    """Squared singular values of ``weight`` (whitened by ``moment``), falling: what each rank adds to the output."""
    double = weight.detach().double()
    return torch.linalg.svdvals(double if moment is None else double @ whitening(moment)[0]).square()


def whitening(moment: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(L, L^-1) with ``L L^T`` the damped moment.

    Raises:
        TrialError: the moment is not finite.
    """
    moment = moment.double()
    scale = moment.diagonal().mean()
    if not torch.isfinite(moment).all():
        raise TrialError("calibration activations are not finite")
    damped = moment + max(float(scale) * DAMPING, 1e-12) * torch.eye(len(moment), dtype=torch.float64)
    values, vectors = torch.linalg.eigh(damped)
    values = values.clamp_min(float(values.max()) * 1e-12)
    return vectors * values.sqrt(), (vectors / values.sqrt()).T


def factored(layer: nn.Linear, rank: int, moments: Moments | None) -> LowRankLinear:
    """``layer`` as a product of ``rank``: nearest in output where moments of the inputs are given, else in weights."""
    if moments is None:
        down, up = factor(layer.weight, rank, None)
        return LowRankLinear(down, up, layer.bias)
    centred = layer.bias is not None
    moment = moments.covariance() if centred else moments.xx / moments.count
    down, up = factor(layer.weight, rank, moment)
    if layer.bias is None:
        return LowRankLinear(down, up, None)
    mean = (moments.sum_x / moments.count).to(layer.weight.dtype)
    lost = layer.weight.detach() @ mean - up @ (down @ mean)
    return LowRankLinear(down, up, layer.bias.detach() + lost)
