"""The pace of training: what a step of the base takes, and how many trainings side by side are fastest together."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

import psutil

from sousvit.machine import available_cores, torch_threads, training_device
from sousvit.spaces.training.loop import fit
from sousvit.spaces.training.plan import TrainingPlan

if TYPE_CHECKING:
    from sousvit.data import ImageSet
    from sousvit.models.load import LoadedModel

#: A training step's time is taken from so many steps of so many images.
STEPS, BATCH = 3, 64
#: In so many seconds the base should read the images of one: ViT-B at 224 px trains on a handful.
STEP_SECONDS = 1.0
#: Share of the free memory that workers side by side may take, and what one grows to while it trains.
MEMORY_SHARE, GROWTH = 0.7, 2.0
#: Twice as many workers must be faster by this factor: each learns less from the others' results, and takes memory.
LEAST_GAIN = 1.15


@dataclass(frozen=True)
class Pace:
    """The pace of training on this machine; zeros where nobody asked.

    Attributes:
        epoch_seconds: of the base, in one of the trainings side by side.
        workers: how many of these are fastest together.
    """

    epoch_seconds: float = 0.0
    workers: int = 0


def training_pace(model: LoadedModel, images: ImageSet, latency: float, widest: int) -> Pace:
    """The pace of training ``model``, from a few steps.

    Args:
        images: for training.
        latency: of an inference in seconds, which tells how few images must do; 0 where nobody knows it.
        widest: threads of the widest timing on this machine, for which a worker has cores.
    """
    affordable = round(STEP_SECONDS / latency) if latency else BATCH
    batch = max(1, min(BATCH, affordable, len(images) // (STEPS + 1)))
    few, cores = images.head(batch * (STEPS + 1)), available_cores()
    seconds = {count: _step_seconds(model, few, batch, cores // count) for count in _counts(cores, widest)}
    workers = fastest_workers(seconds)
    return Pace(seconds[workers] / batch * len(images), workers)


def fastest_workers(seconds: Mapping[int, float]) -> int:
    """How many workers train fastest together, from the seconds of one's training step, by the number of workers."""
    best = min(seconds)
    for count in sorted(seconds):
        if count * seconds[best] > LEAST_GAIN * best * seconds[count]:
            best = count
    return best


def _counts(cores: int, widest: int) -> list[int]:
    """Workers that cores and memory have room for: 1, 2, 4, ...; one on a GPU, whose memory is not counted here."""
    own = psutil.Process().memory_info().rss
    room = MEMORY_SHARE * (psutil.virtual_memory().available + own) / (GROWTH * own)
    most = min(cores // widest, int(room)) if training_device().name == "cpu" else 1
    return [2**power for power in range(max(1, most).bit_length())]


def _step_seconds(model: LoadedModel, images: ImageSet, batch: int, threads: int) -> float:
    plan = TrainingPlan(epochs=1, batch_size=batch, augmentation="none")
    ended: list[float] = []
    with torch_threads(threads):
        module = copy.deepcopy(model.module)
        fit(module, images, model.normalise, plan, progress=lambda *_: ended.append(time.monotonic()))
    return median([after - before for before, after in pairwise(ended)] or [0.0])
