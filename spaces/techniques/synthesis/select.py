"""Selection among many random images: those that the base is surest of, equally many of each class."""

from __future__ import annotations

import torch

from sousvit.models.load import LoadedModel
from sousvit.spaces.tasks.task import task_of
from sousvit.spaces.techniques.synthesis.config import SynthesisConfig
from sousvit.spaces.techniques.synthesis.scenes import ONE, SCATTERED, PixelLaw, draw_scenes

#: Pixels that are drawn and judged at once.
_PIXELS = 256 * 64 * 64


def chosen_scenes(base: LoadedModel, config: SynthesisConfig, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The scenes that the base is surest of, uint8 ``[images, C, H, W]``, and the classes ``[images]`` they stand for.

    ``config.candidates`` times as many are drawn; the order of the chosen ones is random.
    """
    generator = torch.Generator().manual_seed(seed)
    task, layout = task_of(base.module), SCATTERED if base.spec.task == "detection" else ONE
    law, batch = PixelLaw.of(base), _batch_of(base.size)
    left = config.images * config.candidates
    parts, scores = [], []
    while left > 0:
        drawn = to_uint8(draw_scenes(min(batch, left), base.size, law, generator, layout))
        parts.append(drawn)
        scores.append(task.class_scores(answers(base, drawn)))
        left -= len(drawn)
    kept, classes = balanced(torch.cat(scores), config.images)
    order = torch.randperm(len(kept), generator=generator)
    return torch.cat(parts)[kept[order]], classes[order]


def _batch_of(size: tuple[int, int]) -> int:
    """Images of (height, width) that are drawn and judged at once: at most 256."""
    return min(256, -(-_PIXELS // (size[0] * size[1])))


def balanced(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``count`` rows of ``scores`` ``[N, classes]`` and the class of each, equally many a class (one more or less).

    The best pair of row and class is taken first, then the next best whose row is free and whose class is not full.
    """
    num_classes = scores.shape[1]
    room = [count // num_classes + (label < count % num_classes) for label in range(num_classes)]
    taken = [False] * len(scores)
    rows: list[int] = []
    classes: list[int] = []
    for place in scores.flatten().argsort(descending=True, stable=True).tolist():
        if len(rows) == count:
            break
        row, label = divmod(place, num_classes)
        if room[label] and not taken[row]:
            room[label], taken[row] = room[label] - 1, True
            rows.append(row)
            classes.append(label)
    return torch.tensor(rows), torch.tensor(classes)


@torch.inference_mode()
def answers(base: LoadedModel, pixels: torch.Tensor) -> torch.Tensor:
    """The base's predictions, such as logits ``[N, classes]``, on uint8 ``[N, C, H, W]``."""
    module = base.module.eval()
    return torch.cat([module(base.normalise(part)).float() for part in pixels.split(_batch_of(base.size))])


def truth_of(base: LoadedModel, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """The base's predictions as labels of uint8 ``[N, C, H, W]``; see :meth:`LearningTask.truth`."""
    task = task_of(base.module)
    parts = [task.truth(base.module, answers(base, part)) for part in pixels.split(_batch_of(base.size))]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """``[0, 1]`` to 0..255."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)
