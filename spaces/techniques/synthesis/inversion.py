"""Model inversion: images optimised until the base takes them for real ones of a class.

PSAQ-ViT (Li et al., arXiv 2203.02250) minimises the class loss minus the entropy of patch similarities plus total
variation over pixels by Adam (momenta 0.5 and 0.9, rolled and mirrored at random in each step), from noise, for
some hundred steps, and sums the entropy over all blocks. Here it starts from the scenes that the base chose, each
towards the class it was chosen for, so that a dozen steps suffice. The entropy is the mean of two blocks, estimated
from some pairs of patches, both drawn anew each step. Attention consistency and disagreement with a smaller student
(Adaptive DeepInversion, Yin et al., arXiv 1912.08795) can be added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from sousvit.models.load import LoadedModel
from sousvit.spaces.tasks.task import task_of
from sousvit.spaces.techniques.synthesis.config import SynthesisConfig
from sousvit.spaces.techniques.synthesis.priors import (
    disagreement,
    neighbour_consistency,
    random_pairs,
    similarity_entropy,
    total_variation,
)
from sousvit.spaces.techniques.synthesis.probe import Probe
from sousvit.spaces.techniques.synthesis.select import chosen_scenes, to_uint8
from sousvit.spaces.techniques.synthesis.student import stand_in

#: (what, done, total)
Progress = Callable[[str, int, int], None]
#: Images optimised together: small ones, and large ones (with their gradients these fill a laptop's memory first).
BATCH, LARGE_BATCH = 64, 16
#: Pixels of an image from which it is a large one.
LARGE = 128 * 128
#: Similarities that the entropy is estimated from, and blocks whose entropy a step takes, both drawn anew each step.
PAIRS, BLOCKS = 128, 2
#: Images are shifted by up to this share of their size in each step, so that no pixel is tuned alone.
JITTER = 1 / 14


def invert(base: LoadedModel, config: SynthesisConfig, seed: int, progress: Progress | None = None) -> torch.Tensor:
    """Optimised images, classes in equal numbers, uint8 ``[images, C, H, W]``; the same for the same seed."""
    scenes, targets = chosen_scenes(base, config, seed)
    generator = torch.Generator().manual_seed(seed)
    student = stand_in(base) if config.adversarial > 0 else None
    made, batch = [], batch_of(base.size)
    with frozen(base.module), Probe(base.module) as probe:
        for start in range(0, config.images, batch):
            if progress is not None:
                progress("synthesising images", start, config.images)
            part = slice(start, start + batch)
            loss = Loss(base, config, targets[part], probe, student, generator)
            made.append(to_uint8(_optimised(scenes[part] / 255, loss, config)))
    return torch.cat(made)


def batch_of(size: tuple[int, int]) -> int:
    """How many images of (height, width) are optimised together."""
    return LARGE_BATCH if size[0] * size[1] >= LARGE else BATCH


def _optimised(
    images: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor], config: SynthesisConfig
) -> torch.Tensor:
    """The images ``[B, C, H, W]`` in [0, 1] after all steps of Adam with a falling rate."""
    images = images.clone().requires_grad_()
    steps = config.num_steps
    optimizer = torch.optim.Adam([images], config.learning_rate, betas=(0.5, 0.9))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = config.learning_rate * (1 - 0.9 * step / steps)
        optimizer.zero_grad()
        (loss(images) * len(images)).backward()
        optimizer.step()
        with torch.no_grad():
            images.clamp_(0, 1)
    return images.detach()


class Loss:
    """The loss that one batch of images ``[B, C, H, W]`` in [0, 1] minimises."""

    def __init__(
        self,
        base: LoadedModel,
        config: SynthesisConfig,
        targets: torch.Tensor,
        probe: Probe,
        student: nn.Module | None,
        generator: torch.Generator,
    ) -> None:
        self._base, self._config, self._targets = base, config, targets
        self._task = task_of(base.module)
        self._probe, self._student, self._generator = probe, student, generator

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        config = self._config
        seen = normalised(self._base, _jittered(images, self._generator))
        logits, patches = self._probe(seen)
        loss = config.class_weight * F.nll_loss(self._task.class_scores(logits), self._targets)
        loss = loss + config.smooth_weight * total_variation(images)
        if config.entropy_weight and patches:
            loss = loss - config.entropy_weight * self._entropy(patches)
        if config.attention_weight and self._probe.grid is not None and len(patches) > 1:
            loss = loss + config.attention_weight * neighbour_consistency(patches, self._probe.grid)
        if self._student is not None and config.adversarial:
            loss = loss - config.adversarial * disagreement(
                *map(self._task.class_logits, (logits, self._student(seen)))
            )
        return loss

    def _entropy(self, patches: list[torch.Tensor]) -> torch.Tensor:
        chosen = torch.randperm(len(patches), generator=self._generator)[:BLOCKS].tolist()
        pairs = random_pairs(patches[0].shape[1], PAIRS, self._generator)
        return torch.stack([similarity_entropy(patches[index], pairs).mean() for index in chosen]).mean()


def _jittered(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    reach = max(1, round(min(images.shape[2:]) * JITTER))
    down, right = torch.randint(-reach, reach + 1, (2,), generator=generator).tolist()
    if torch.rand((), generator=generator) < 0.5:
        images = images.flip(3)
    return images.roll((down, right), (2, 3))


def normalised(base: LoadedModel, images: torch.Tensor) -> torch.Tensor:
    """Float images in [0, 1] as the base expects them, with a gradient."""
    return base.normalise(images * 255)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Keep ``model`` in eval mode, its weights without gradients, inside the block."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    was_training = model.training
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        model.train(was_training)
        for parameter, wanted in before:
            parameter.requires_grad_(wanted)
