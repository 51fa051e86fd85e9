"""Synthesised image sets: made once, stored by content, handed to recipes with the teacher's predictions on them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sousvit.cache import TensorCache
from sousvit.data import ImageSet
from sousvit.data.memory import memory_set
from sousvit.files import content_hash
from sousvit.models.load import LoadedModel
from sousvit.spaces.context import StepImages
from sousvit.spaces.tasks.task import task_of
from sousvit.spaces.techniques.synthesis.config import SynthesisConfig
from sousvit.spaces.techniques.synthesis.generator import generate
from sousvit.spaces.techniques.synthesis.inversion import Progress, invert
from sousvit.spaces.techniques.synthesis.select import chosen_scenes, truth_of
from sousvit.spaces.training.teacher import Forward, Teacher

#: Version of the code that makes images, a part of each set's key: raised when equal parameters give other images.
VERSION = 2
#: Streams of seeds (``2 * seed + stream``): images that recipes see, those that judge them in a search, and those that
#: judge its answer. The last lies beyond the others of usual runs (a run may go on with another seed), but within the
#: 32 bits that torch's CPU generator takes.
SEEN, HELD_OUT, FINAL = 0, 1, 1 << 31


class Synthesiser:
    """A maker of the images that a :class:`SynthesisConfig` describes; each set is made once.

    Args:
        base: the model that images are made from.
        seed: of the run.
        calibration: number of a set's images that scores and repair use.
        cache: where sets and the teacher's predictions are stored, or None.
        progress: called with (what, done, total).
        forward: what the base's predictions come from, see :class:`~sousvit.spaces.training.teacher.Teacher`.
    """

    def __init__(
        self,
        base: LoadedModel,
        seed: int = 0,
        calibration: int = 512,
        cache: TensorCache | None = None,
        progress: Progress | None = None,
        forward: Forward | None = None,
    ) -> None:
        self._base, self._seed, self._calibration = base, seed, calibration
        self._cache, self._progress, self._forward = cache, progress, forward
        self._handed: dict[str, tuple[StepImages, Teacher]] = {}
        self._own_seconds = 0.0

    def __call__(self, config: SynthesisConfig) -> StepImages:
        """Images for a recipe, and the teacher on them; parameters with the same effect give the same object."""
        key = content_hash(config.acting.model_dump())
        if key not in self._handed:
            train = self.made(config)
            teacher = Teacher(self._base, train, self._cache, self._progress, self._forward)
            calibration = train.spread(self._calibration, self._seed)
            self._handed[key] = StepImages(train, calibration, teacher), teacher
        return self._handed[key][0]

    @property
    def seconds(self) -> float:
        """Seconds spent so far on images and on the teacher's predictions for them, which all trials share."""
        return self._own_seconds + sum(teacher.seconds for _, teacher in self._handed.values())

    def made(self, config: SynthesisConfig, stream: int = SEEN) -> ImageSet:
        """One set, labelled by the base; read from the cache where it is stored already."""
        config = config.acting
        key = "images/" + content_hash(self._base.fingerprint, config.model_dump(), self._seed, stream, VERSION)
        tensors = self._stored(key)
        if tensors is None:
            with self._claimed(key):
                tensors = self._stored(key) or self._make(key, config, stream)
        pixels = tensors["pixels"]
        # Of the pixels, not of the parameters: another machine may round otherwise and choose other images.
        fingerprint, nothing = content_hash(pixels.numpy().tobytes()), torch.zeros(len(pixels), dtype=torch.int64)
        images = memory_set(f"images synthesised by {config.method}", pixels, nothing, fingerprint)
        return task_of(self._base.module).labelled(images, tensors)

    def _stored(self, key: str) -> dict[str, torch.Tensor] | None:
        found = None if self._cache is None else self._cache.read(key)
        return None if found is None else found[0]

    @contextmanager
    def _claimed(self, key: str) -> Iterator[None]:
        """Hold the set for this worker: others that need it wait instead of making it too."""
        if self._cache is None:
            yield
            return
        with self._cache.claim(key, self._wait):
            yield

    def _wait(self) -> None:
        if self._progress is not None:
            self._progress("waiting for synthesised images", 0, 0)

    def _make(self, key: str, config: SynthesisConfig, stream: int) -> dict[str, torch.Tensor]:
        begun = time.monotonic()
        pixels = _METHODS[config.method](self._base, config, self._seed * 2 + stream, self._progress)
        tensors = {"pixels": pixels, **truth_of(self._base, pixels)}
        self._own_seconds += time.monotonic() - begun
        if self._cache is not None:
            self._cache.write(key, tensors, {"synthesis": config.model_dump()})
        return tensors


def _scenes(base: LoadedModel, config: SynthesisConfig, seed: int, progress: Progress | None = None) -> torch.Tensor:
    if progress is not None:
        progress("synthesising images", 0, config.images)
    return chosen_scenes(base, config, seed)[0]


_METHODS = {"scenes": _scenes, "inversion": invert, "generator": generate}
