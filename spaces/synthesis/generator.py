"""A small convolutional generator, trained against the base and a smaller student (arXiv 2408.05952).

The generator minimises ``L_G = L_adv + lambda L_attention`` beside the priors of the inversion, where ``L_adv`` is
minus the disagreement of base and student; the student minimises ``l_KD L_KD + l_CE L_CE + l_patch L_patch``. Both take
turns. The network, the student and the form of each loss are ours: the paper names the terms. Images are kept from the
whole second half of the training, so that a set holds what many generators made.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from sousvit.common.model import LoadedModel
from sousvit.spaces.synthesis.config import SynthesisConfig
from sousvit.spaces.synthesis.inversion import BATCH, Loss, Progress, frozen, normalised
from sousvit.spaces.synthesis.probe import Probe
from sousvit.spaces.synthesis.scenes import PixelLaw
from sousvit.spaces.synthesis.select import to_uint8
from sousvit.spaces.synthesis.student import stand_in

LATENT, WIDTH = 64, 64
#: Learning rate of the network as a share of that of pixels.
RATE_SHARE = 0.2
#: Weights of the student's losses, and its learning rate.
KD_WEIGHT, CE_WEIGHT, PATCH_WEIGHT, STUDENT_RATE = 1.0, 0.5, 1.0, 1e-3


class Generator(nn.Module):
    """Noise ``[B, 64]`` and classes ``[B]`` to fields ``[B, C, H, W]`` of mean 0 and variance 1 over a batch."""

    def __init__(self, size: tuple[int, int], channels: int, num_classes: int) -> None:
        super().__init__()
        self.size, self.num_classes = size, num_classes
        self.start = max(1, -(-size[0] // 4)), max(1, -(-size[1] // 4))
        self.project = nn.Linear(LATENT + num_classes, WIDTH * self.start[0] * self.start[1])
        self.layers = nn.Sequential(
            nn.BatchNorm2d(WIDTH),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.BatchNorm2d(WIDTH),
            nn.LeakyReLU(0.2),
            nn.Upsample(size=size, mode="bilinear"),
            nn.Conv2d(WIDTH, WIDTH // 2, 3, padding=1),
            nn.BatchNorm2d(WIDTH // 2),
            nn.LeakyReLU(0.2),
            nn.Conv2d(WIDTH // 2, channels, 3, padding=1),
            nn.BatchNorm2d(channels, affine=False),
        )

    def forward(self, noise: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """See the class."""
        code = torch.cat([noise, F.one_hot(classes, self.num_classes).to(noise.dtype)], 1)
        fields: torch.Tensor = self.layers(self.project(code).unflatten(1, (WIDTH, *self.start)))
        return fields


def generate(base: LoadedModel, config: SynthesisConfig, seed: int, progress: Progress | None = None) -> torch.Tensor:
    """Images of a generator trained for ``config.steps`` batches, uint8 ``[images, C, H, W]``; the same for a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # initial weights
        network = Generator(base.size, base.channels, base.num_classes).train()
    random = torch.Generator().manual_seed(seed)
    student = stand_in(base).requires_grad_(True)
    makes = torch.optim.Adam(network.parameters(), RATE_SHARE * config.learning_rate, betas=(0.5, 0.99))
    learns = torch.optim.AdamW(student.parameters(), STUDENT_RATE, weight_decay=0.05)
    law = PixelLaw(base.mean, base.std)
    kept: list[torch.Tensor] = []
    steps = config.num_steps
    first_kept = steps // 2
    with frozen(base.module), Probe(base.module) as probe, Probe(student) as follower:
        for step in range(steps):
            if progress is not None:
                progress("training a generator", step, steps)
            targets = torch.randint(base.num_classes, (BATCH,), generator=random)
            images = law.pixels(network(torch.randn(BATCH, LATENT, generator=random), targets))
            student.requires_grad_(False)
            loss = Loss(base, config, targets, probe, student.eval(), random)(images)
            makes.zero_grad()
            loss.backward()
            makes.step()
            _teach(student.requires_grad_(True), learns, base, images.detach(), probe, follower)
            wanted = -(-config.images * (step + 1 - first_kept) // (steps - first_kept)) - sum(map(len, kept))
            while step >= first_kept and wanted > 0:
                kept.append(to_uint8(_more(network, law, min(wanted, BATCH), base.num_classes, random)))
                wanted -= len(kept[-1])
    return torch.cat(kept)


@torch.no_grad()
def _more(network: Generator, law: PixelLaw, count: int, num_classes: int, random: torch.Generator) -> torch.Tensor:
    classes = torch.randint(num_classes, (BATCH,), generator=random)
    return law.pixels(network(torch.randn(BATCH, LATENT, generator=random), classes))[:count]


def _teach(
    student: nn.Module,
    optimizer: torch.optim.Optimizer,
    base: LoadedModel,
    images: torch.Tensor,
    probe: Probe,
    follower: Probe,
) -> None:
    """One step of the student on a batch ``[B, C, H, W]`` in [0, 1]."""
    seen = normalised(base, images)
    with torch.no_grad():
        taught, patches = probe(seen)
    logits, own = follower(seen)
    loss = student_loss(logits, taught, own[-1] if own else None, patches[-1] if patches else None)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def student_loss(
    logits: torch.Tensor, taught: torch.Tensor, own: torch.Tensor | None, patches: torch.Tensor | None
) -> torch.Tensor:
    """``l_KD KL(teacher || student) + l_CE CE(argmax teacher) + l_patch MSE`` of the last attention outputs.

    Args:
        logits: the student's ``[B, classes]``.
        taught: the teacher's.
        own: the student's patches ``[B, N, D]``, or None without.
        patches: the teacher's.
    """
    divergence = F.kl_div(logits.log_softmax(1), taught.log_softmax(1), reduction="batchmean", log_target=True)
    loss = KD_WEIGHT * divergence + CE_WEIGHT * F.cross_entropy(logits, taught.argmax(1))
    if own is not None and patches is not None:
        width = own.shape[-1:]
        loss = loss + PATCH_WEIGHT * F.mse_loss(F.layer_norm(own, width), F.layer_norm(patches, width))
    return loss
