"""The training loop, for base models and for recovery; the model's task defines the losses.

The teacher enters as stored predictions per augmented view (:mod:`sousvit.data.augment`), so it runs once per
view and not once per trial (TinyViT, arXiv 2207.10666).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from sousvit.data import ImageSet
from sousvit.data.augment import View
from sousvit.errors import TrainingDivergedError, TrialError
from sousvit.machine import Precision, TrainingDevice, training_device
from sousvit.spaces.layers.quantized import QuantLinear
from sousvit.spaces.tasks.task import task_of
from sousvit.spaces.training.convolutions import trainable_convolutions
from sousvit.spaces.training.optimizer import make_optimizers
from sousvit.spaces.training.plan import Networks, Normalise, Progress, TeacherLogits, TrainingPlan
from sousvit.spaces.training.transfer import Transfer, distilled_training, represent

if TYPE_CHECKING:
    from sousvit.spaces.training.checkpoint import Checkpoint


def fit(
    model: nn.Module,
    data: ImageSet,
    normalise: Normalise,
    plan: TrainingPlan,
    teacher: TeacherLogits | None = None,
    progress: Progress | None = None,
    deadline: float | None = None,
    transfer: Transfer | None = None,
    networks: Networks | None = None,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Train ``model`` in place and leave it in eval mode on the CPU; the same seed gives the same weights.

    Args:
        model: takes what ``normalise`` returns, gives its task's predictions.
        data: training images.
        normalise: uint8 images to the model's input.
        plan: what to do.
        progress: called after every step.
        teacher: stored predictions by view; needed when ``soft_weight`` or ``hard_weight`` is positive.
        deadline: ``time.monotonic()`` value after which training stops.
        transfer: features and attention to follow besides.
        networks: the networks that learn in each step where it is not the model alone, such as sub-networks of an
            elastic base; they share its weights, and their losses count alike.
        checkpoint: where the state is kept on the way, so that a killed training goes on instead of starting over.

    Raises:
        UserError: the plan does not suit the model's task.
        TrainingDivergedError: a loss or gradient is NaN or infinite.
        TrialError: the deadline passed.
    """
    assert teacher is not None or plan.soft_weight + plan.hard_weight == 0
    assert transfer is None or networks is None
    if plan.epochs == 0:
        return
    task_of(model).check(plan)
    device = training_device(plan.precision)
    cuda = [torch.cuda.current_device()] if device.name == "cuda" else []
    try:
        with torch.random.fork_rng(devices=cuda):  # dropout and stochastic depth draw from the global generator
            torch.manual_seed(plan.seed)
            with distilled_training(model), trainable_convolutions(model):
                model.to(device.name).train()
                _train(
                    model, data, normalise, plan, device, teacher, progress, deadline, transfer, networks, checkpoint
                )
    finally:
        model.to("cpu").to(memory_format=torch.contiguous_format).eval()


def _train(
    model: nn.Module,
    data: ImageSet,
    normalise: Normalise,
    plan: TrainingPlan,
    device: TrainingDevice,
    teacher: TeacherLogits | None,
    progress: Progress | None,
    deadline: float | None,
    transfer: Transfer | None,
    networks: Networks | None,
    checkpoint: Checkpoint | None,
) -> None:
    learner = model if transfer is None else nn.ModuleList([model, transfer.to(device.name).train()])
    layout = _layout(model)
    learner.to(memory_format=layout)
    optimizers = make_optimizers(learner, plan.optimizer, plan.learning_rate, plan.weight_decay)
    steps = max(1, len(data) // plan.batch_size)
    total = max(1, round(plan.epochs * steps))
    cycle = _one_cycle(total, plan.warmup)
    masks, task = _kept_zeros(model), task_of(model)
    done = 0 if checkpoint is None else checkpoint.restore(learner, optimizers)
    for epoch in range(done // steps, math.ceil(total / steps)):
        views = _epoch_views(data, plan, teacher, epoch)
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(plan.seed * 7919 + epoch))
        distinct = max(1, plan.batch_size // plan.repeats)
        for step in range(done - epoch * steps, min(steps, total - epoch * steps)):
            if deadline is not None and time.monotonic() > deadline:
                raise TrialError(f"training ran past its time limit in epoch {epoch + 1} of {plan.epochs:g}")
            rows = order[step * distinct : (step + 1) * distinct]
            images = normalise(torch.cat([view.pixels.read(data, rows) for view in views]))
            images = images.to(device.name, memory_format=layout)
            learner.zero_grad(set_to_none=True)
            together = (model,) if networks is None else networks(done)
            taught, value = _taught(views, rows, device.name), 0.0
            for network in together:
                with device.autocast():
                    seen = represent(model, images) if transfer is not None else None
                    output = network(images) if seen is None else seen.logits
                targets = task.targets(data, [view.pixels for view in views], rows, output)
                loss = task.loss(model, output, targets, taught, plan)
                if transfer is not None and seen is not None:
                    loss = loss + transfer.loss(seen, [view.index for view in views], rows)
                loss = loss / len(together)
                loss.backward()
                value += float(loss.detach())
            norm = nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
            if not (math.isfinite(value) and math.isfinite(float(norm))):
                raise TrainingDivergedError(
                    f"the loss became {value:g}, its gradient {float(norm):g}, in epoch {epoch + 1}, step {step + 1}"
                )
            _update(optimizers, cycle(done))
            with torch.no_grad():
                for weight, kept in masks:
                    weight.mul_(kept)
            done += 1
            if checkpoint is not None:
                checkpoint.keep(done, learner, optimizers)
            if progress is not None:
                progress(epoch, step, steps, value)


def _layout(model: nn.Module) -> torch.memory_format:
    """Channels last for networks of convolutions, which compute twice as fast on it."""
    is_convolutional = any(isinstance(part, nn.BatchNorm2d) for part in model.modules())
    return torch.channels_last if is_convolutional else torch.contiguous_format


def _update(optimizers: Sequence[torch.optim.Optimizer], share: float) -> None:
    """One step at ``share`` of each group's own learning rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * share
        optimizer.step()


def _kept_zeros(model: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Weights that must stay sparse, and where they are not zero now."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | QuantLinear)]
    sparse = [layer.weight for layer in layers if getattr(layer, "keeps_zeros", False)]
    return [(weight, weight.detach() != 0) for weight in sparse]


@dataclass(frozen=True)
class _EpochView:
    """One view of the epoch: its number, its pixels, and the teacher's predictions on it."""

    index: int
    pixels: View
    logits: torch.Tensor | None


def _epoch_views(data: ImageSet, plan: TrainingPlan, teacher: TeacherLogits | None, epoch: int) -> list[_EpochView]:
    views = []
    for repeat in range(plan.repeats):
        index = (epoch * plan.repeats + repeat) % plan.num_views
        pixels = View.draw(plan.augmentation, len(data), data.size, plan.seed, index)
        views.append(_EpochView(index, pixels, None if teacher is None else teacher(index)))
    return views


def _taught(views: Sequence[_EpochView], rows: torch.Tensor, device: str) -> torch.Tensor | None:
    """The teacher's predictions of the rows, once a view."""
    taught = [view.logits[rows] for view in views if view.logits is not None]
    return torch.cat(taught).to(device) if taught else None


@torch.inference_mode()
def predict(
    model: nn.Module,
    data: ImageSet,
    normalise: Normalise,
    batch_size: int = 256,
    view: View | None = None,
    precision: Precision = "auto",
) -> torch.Tensor:
    """Predictions ``[N, ...]`` (float32, CPU) of the PyTorch model on ``data``, or on a view of it."""
    device = training_device(precision)
    was_training = model.training
    model.to(device.name).eval()
    out = []
    for start in range(0, len(data), batch_size):
        rows = torch.arange(start, min(start + batch_size, len(data)))
        images = data.images(rows)
        if view is not None:
            images = view.read(data, rows)
        with device.autocast():
            out.append(model(normalise(images).to(device.name)).float().cpu())
    model.to("cpu").train(was_training)
    return torch.cat(out)


def _one_cycle(total: int, warmup: float) -> Callable[[int], float]:
    warm = max(1, round(total * warmup))

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, total - warm))))

    return factor
