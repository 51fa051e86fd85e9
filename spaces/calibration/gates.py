"""Importance of units by learned gates: a short training of one gate a unit, under a penalty for keeping it.

Each unit is multiplied by a gate that starts at 1; gates are trained to keep the model's own predictions (the task's
divergence from the ungated model, KL for classes) while an l1 penalty pulls them to 0, as in network slimming (Liu et
al., arXiv 1708.06519) and in the channel scores of vision transformer pruning (Zhu et al., 2104.08500). Weights stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from sousvit.errors import TrialError
from sousvit.spaces.calibration.stream import calibrating, calibration_images, check_deadline, enough_images
from sousvit.spaces.tasks.task import task_of

if TYPE_CHECKING:
    from sousvit.spaces.context import Context

STEPS = 30
#: Images of a step, at least of large ones.
BATCH, LEAST_BATCH = 64, 16
RATE = 0.05
#: Penalty of all gates together, relative to the divergence.
PENALTY = 1.0
#: Most that is added to a gate to break ties between equal ones.
TIE = 1e-3


def learned_gates(
    model: nn.Module, layers: Sequence[nn.Module], groups: Sequence[int], context: Context
) -> list[torch.Tensor]:
    """Trained gates of the input units of ``layers``, ``[groups]`` each, between 0 and 1 (and a little more).

    Many gates end at 0: ties are broken by how strongly the divergence's gradient pulled at a gate on the way.

    Args:
        model: gives its task's predictions.
        layers: modules whose inputs ``[B, N, groups * channels]`` are gated.
        groups: units per layer; neighbouring channels form one unit.
        context: with calibration images.

    Raises:
        TrialError: the deadline passed or the gates are not finite.
    """
    images = calibration_images(context)
    generator = torch.Generator().manual_seed(context.seed)
    gates = [torch.ones(count, requires_grad=True) for count in groups]
    optimizer = torch.optim.Adam(gates, lr=RATE)
    total, task = sum(groups), task_of(model)
    pulls = [torch.zeros(count) for count in groups]
    size = len(enough_images(context, BATCH, LEAST_BATCH))
    for _ in range(STEPS):
        check_deadline(context, "learning gates")
        rows = torch.randperm(len(images), generator=generator)[:size]
        batch = context.normalise(images.images(rows))
        with calibrating():
            reference = model(batch).float()
        with calibrating(), gated(layers, gates), torch.enable_grad():
            divergence = task.divergence(model(batch).float(), reference)
            loss = divergence + PENALTY * sum(gate.sum() for gate in gates) / total
            gradients = torch.autograd.grad(loss, gates)
        for gate, gradient, pull in zip(gates, gradients, pulls, strict=True):
            gate.grad = gradient
            pull += (gradient - PENALTY / total).abs()  # of the divergence alone
        optimizer.step()
        with torch.no_grad():
            for gate in gates:
                gate.clamp_(0, 1)
    if not all(torch.isfinite(gate).all() for gate in gates):
        raise TrialError("learned gates are not finite")
    strongest = max(float(pull.max()) for pull in pulls) or 1.0
    return [gate.detach().double() + TIE * pull.double() / strongest for gate, pull in zip(gates, pulls, strict=True)]


@contextmanager
def gated(layers: Sequence[nn.Module], gates: Sequence[torch.Tensor]) -> Iterator[None]:
    """Multiply the units that enter ``layers`` by ``gates``, inside the block."""

    def hook(gate: torch.Tensor):  # type: ignore[no-untyped-def]
        def multiply(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            width = inputs[0].shape[-1] // len(gate)
            return (inputs[0] * gate.repeat_interleave(width), *inputs[1:])

        return multiply

    handles = [layer.register_forward_pre_hook(hook(gate)) for layer, gate in zip(layers, gates, strict=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
