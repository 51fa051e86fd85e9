"""One training loop for base models and for recovery; what the losses are is the model's task's business.

The teacher enters as stored predictions per augmented view (:mod:`sousvit.common.data.augment`), so it runs once per
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

from sousvit.common.data import ImageSet
from sousvit.common.data.augment import Policy, View
from sousvit.common.device import Precision, TrainingDevice, training_device
from sousvit.common.errors import TrainingDivergedError, TrialError
from sousvit.spaces.optimizer import OptimizerName, make_optimizers
from sousvit.spaces.quantized import QuantLinear
from sousvit.spaces.tasks.task import task_of
from sousvit.spaces.transfer import Transfer, distilled_training, represent

if TYPE_CHECKING:
    from sousvit.spaces.checkpoint import Checkpoint

#: uint8 images to the model's float input.
Normalise = Callable[[torch.Tensor], torch.Tensor]
#: (epoch) to the teacher's predictions [N, ...] on the epoch's view.
TeacherLogits = Callable[[int], torch.Tensor]
#: ``[B, ...]``; a classifier with a distillation token gives two in training.
Predictions = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
#: (step) to the networks that learn together in it, from normalised images to :data:`Predictions`; see :mod:`.elastic`.
Networks = Callable[[int], Sequence[Callable[[torch.Tensor], Predictions]]]
#: (epoch, step, steps per epoch, loss)
Progress = Callable[[int, int, int, float], None]


@dataclass(frozen=True)
class TrainingPlan:
    """What one training run does.

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
        seed: of batches and views.
        precision: see :mod:`sousvit.common.device`.
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
        networks: what learns in each step, where it is not the model alone; they share its weights. Their losses
            count alike.
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
            with distilled_training(model):
                model.to(device.name).train()
                _train(
                    model, data, normalise, plan, device, teacher, progress, deadline, transfer, networks, checkpoint
                )
    finally:
        model.to("cpu").eval()


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
            images = normalise(torch.cat([view.pixels.read(data, rows) for view in views])).to(device.name)
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
