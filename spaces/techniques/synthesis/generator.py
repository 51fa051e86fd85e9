"""A small convolutional generator, trained against the base and a smaller student (arXiv 2408.05952).

The generator minimises ``L_G = L_adv + lambda L_attention`` beside the priors of the inversion, where ``L_adv`` is
minus the disagreement of base and student; the student, at first the base without half of its blocks, minimises
``l_KD L_KD + l_CE L_CE + l_patch L_patch``. Both take turns. The network, the student and the form of each loss are
ours: the paper names the terms. Images are taken from the whole second half of the training, so that a set holds those
of many states of the generator.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from sousvit.models.load import LoadedModel
from sousvit.spaces.tasks.task import LearningTask, task_of
from sousvit.spaces.techniques.synthesis.config import SynthesisConfig
from sousvit.spaces.techniques.synthesis.inversion import Loss, Progress, batch_of, frozen, normalised
from sousvit.spaces.techniques.synthesis.probe import Probe
from sousvit.spaces.techniques.synthesis.scenes import PixelLaw
from sousvit.spaces.techniques.synthesis.select import to_uint8
from sousvit.spaces.techniques.synthesis.student import stand_in

LATENT, WIDTH = 64, 64
#: Most rows and columns of the map that the network begins with.
START = 8
#: Learning rate of the network as a share of that of pixels.
RATE_SHARE = 0.2
#: Weights of the student's losses, and its learning rate.
KD_WEIGHT, CE_WEIGHT, PATCH_WEIGHT, STUDENT_RATE = 1.0, 0.5, 1.0, 1e-3


class Generator(nn.Module):
    """A network from noise ``[B, 64]`` and classes ``[B]`` to fields ``[B, C, H, W]``, standardised over a batch."""

    def __init__(self, size: tuple[int, int], channels: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        doublings = max(2, math.ceil(math.log2(max(size) / START)))
        self.start = -(-size[0] >> doublings), -(-size[1] >> doublings)
        self.project = nn.Linear(LATENT + num_classes, WIDTH * self.start[0] * self.start[1])
        doubled = (
            layer
            for _ in range(doublings - 1)
            for layer in (
                nn.Upsample(scale_factor=2),
                nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
                nn.BatchNorm2d(WIDTH),
                nn.LeakyReLU(0.2),
            )
        )
        self.layers = nn.Sequential(
            nn.BatchNorm2d(WIDTH),
            *doubled,
            nn.Upsample(size=size, mode="bilinear"),
            nn.Conv2d(WIDTH, WIDTH // 2, 3, padding=1),
            nn.BatchNorm2d(WIDTH // 2),
            nn.LeakyReLU(0.2),
            nn.Conv2d(WIDTH // 2, channels, 3, padding=1),
            nn.BatchNorm2d(channels, affine=False),
        )

    def forward(self, noise: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        code = torch.cat([noise, F.one_hot(classes, self.num_classes).to(noise.dtype)], 1)
        fields: torch.Tensor = self.layers(self.project(code).unflatten(1, (WIDTH, *self.start)))
        return fields


def generate(base: LoadedModel, config: SynthesisConfig, seed: int, progress: Progress | None = None) -> torch.Tensor:
    """Images of a generator trained for ``config.steps`` batches, uint8 ``[images, C, H, W]``; the same for a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # initial weights
        network = Generator(base.size, base.channels, base.num_classes).train()
    random = torch.Generator().manual_seed(seed)
    student = Student(base) if config.adversarial > 0 else None
    makes = torch.optim.Adam(network.parameters(), RATE_SHARE * config.learning_rate, betas=(0.5, 0.99))
    law, batch, steps = PixelLaw.of(base), batch_of(base.size), config.num_steps
    kept: list[torch.Tensor] = []
    first_kept = steps // 2
    with frozen(base.module), Probe(base.module) as probe:
        for step in range(steps):
            if progress is not None:
                progress("training a generator", step, steps)
            images, targets = _drawn(network, law, batch, base.num_classes, random)
            opponent = None if student is None else student.network
            loss = Loss(base, config, targets, probe, opponent, random)(images)
            makes.zero_grad()
            loss.backward()
            makes.step()
            if student is not None:
                student.learn(normalised(base, images.detach()), probe)
            wanted = -(-config.images * (step + 1 - first_kept) // (steps - first_kept)) - sum(map(len, kept))
            while wanted > 0:
                with torch.no_grad():
                    images, _ = _drawn(network, law, batch, base.num_classes, random)
                kept.append(to_uint8(images[:wanted]))
                wanted -= len(kept[-1])
    return torch.cat(kept)


def _drawn(
    network: Generator, law: PixelLaw, count: int, num_classes: int, random: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """New images ``[count, C, H, W]`` in [0, 1] and the classes ``[count]`` that they were drawn for."""
    classes = torch.randint(num_classes, (count,), generator=random)
    return law.pixels(network(torch.randn(count, LATENT, generator=random), classes)), classes


class Student:
    """The opponent of the generator: a smaller network that learns from the base on every batch.

    Args:
        base: copied, without half of its blocks, as the start.
    """

    def __init__(self, base: LoadedModel) -> None:
        self.network, self._task = stand_in(base), task_of(base.module)
        self._optimizer = torch.optim.AdamW(self.network.parameters(), STUDENT_RATE, weight_decay=0.05)

    def learn(self, images: torch.Tensor, teacher: Probe) -> None:
        """Take one optimiser step on normalised images ``[B, C, H, W]``; between steps the weights are frozen."""
        with torch.no_grad():
            taught, patches = teacher(images)
        self.network.requires_grad_(True)
        with Probe(self.network) as probe:
            logits, own = probe(images)
            loss = student_loss(self._task, logits, taught, own[-1] if own else None, patches[-1] if patches else None)
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
        self.network.requires_grad_(False)


def student_loss(
    task: LearningTask,
    logits: torch.Tensor,
    taught: torch.Tensor,
    own: torch.Tensor | None,
    patches: torch.Tensor | None,
) -> torch.Tensor:
    """``l_KD divergence(teacher, student) + l_CE CE(argmax teacher) + l_patch MSE`` of the last attention outputs.

    Args:
        task: its divergence is the KL one, or a detector's dense distance.
        logits: the student's predictions, such as ``[B, classes]``.
        taught: the teacher's.
        own: the student's patches ``[B, N, D]``, or None without.
        patches: the teacher's.
    """
    entropy = F.cross_entropy(task.class_logits(logits), task.class_logits(taught).argmax(1))
    loss = KD_WEIGHT * task.divergence(logits, taught) + CE_WEIGHT * entropy
    if own is not None and patches is not None:
        width = own.shape[-1:]
        loss = loss + PATCH_WEIGHT * F.mse_loss(F.layer_norm(own, width), F.layer_norm(patches, width))
    return loss
