"""The optimiser of every training here: Muon on matrices of blocks and kernels of convolutions, AdamW on the rest.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) replaces a matrix's momentum by the nearest
semi-orthogonal matrix, found by Newton-Schulz iterations; scaled to AdamW's usual step size (Liu et al., "Muon is
scalable", arXiv 2502.16982) both share one learning rate. timm and torch ship Muon too, but compute the iterations
in bf16, which CPUs without bf16 emulate: measured, that doubled the time of a training step here.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from sousvit.specs import OptimizerName

#: Quantizers' step sizes are hundredths: Adam's updates, about as large as the learning rate, would throw them far off.
STEP_SIZES = ("act_scale", "weight_scale")
STEP_SIZE_RATE = 0.01
#: Coefficients of the quintic Newton-Schulz iteration (Jordan et al.).
QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalised(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Nearly semi-orthogonal matrices with the same singular vectors.

    Args:
        matrices: ``[K, M, N]``.
        steps: iterations; after five, singular values lie at about 0.7 to 1.2.
    """
    a, b, c = QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon for matrices ``[M, N]`` with decoupled weight decay; equal shapes are orthogonalised together.

    Kernels ``[M, N, h, w]`` count as matrices ``[M, N * h * w]``.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0, momentum: float = 0.95
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for parameters in by_shape.values():
                averages = torch.stack([self._nesterov(p, group["momentum"]) for p in parameters])
                updates = orthogonalised(averages.flatten(2))
                # An entry's root mean square becomes 0.2, that of AdamW's updates.
                step_size = group["lr"] * 0.2 * math.sqrt(max(updates.shape[1:]))
                for parameter, update in zip(parameters, updates, strict=True):
                    decay = 1 - group["lr"] * group["weight_decay"]
                    parameter.mul_(decay).add_(update.view(parameter.shape), alpha=-step_size)

    def _nesterov(self, parameter: nn.Parameter, momentum: float) -> torch.Tensor:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        average = state["momentum"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(average, momentum)


def make_optimizers(
    model: nn.Module, kind: OptimizerName, learning_rate: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """The optimisers of a model's parameters, each of which belongs to one of them.

    Weight decay acts on matrices, not on biases, norms and embeddings.
    """
    matrices: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    steps: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.endswith(STEP_SIZES):
            steps.append(parameter)
        elif parameter.ndim < 2 or "pos_embed" in name or "token" in name:
            plain.append(parameter)
        elif kind == "muon" and _suits_muon(name, parameter):
            matrices.append(parameter)
        else:
            decayed.append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
        {"params": steps, "weight_decay": 0.0, "lr": learning_rate * STEP_SIZE_RATE},
    ]
    fused = next(model.parameters()).device.type != "mps"
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=learning_rate, fused=fused)]
    if matrices:
        optimizers.append(Muon(matrices, learning_rate, weight_decay))
    return optimizers


def _suits_muon(name: str, parameter: nn.Parameter) -> bool:
    """Whether it is a matrix of a block, or the kernels of a convolution that mixes channels."""
    if parameter.ndim == 2:
        return "blocks." in name
    return parameter.ndim == 4 and parameter.shape[1] > 1 and "patch_embed" not in name
