"""The runtime that the base's predictions for a teacher are read in: the fastest one here that agrees with the base.

Views of the training images are read once for all trials, so what counts is throughput on all cores, and small
differences only matter in so far as a student would learn something else. OpenVINO's int8 was measured at 3 times the
throughput of ONNX Runtime in fp32, on a CPU with VNNI (``benchmarks/teacher/result.md``).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from sousvit.cache import TensorCache
from sousvit.errors import MissingPackageError, TrialError
from sousvit.faults import faults_told
from sousvit.files import content_hash
from sousvit.machine import available_cores, computes_bf16, cpu_has_bf16
from sousvit.models.load import LoadedModel
from sousvit.objectives.runtimes.pool import open_pool
from sousvit.objectives.runtimes.runtime import Session, get_runtime
from sousvit.objectives.runtimes.torch_ import ModuleSession
from sousvit.search.executors.executor import Progress
from sousvit.spaces.context import Context
from sousvit.spaces.export.artifact import Artifact
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.tasks.task import task_of

#: What the base is judged in; every other candidate is held against it in speed.
PLAIN, INT8, TORCH_BF16 = "onnxruntime fp32", "openvino int8", "torch bf16"
#: Images a run, always so many (OpenVINO was measured 10% faster for it): enough for one stream on all cores, and few
#: enough for their caches.
BATCH = 32
#: Temperature of the predictions that are compared, the usual one of distillation.
TEMPERATURE = 2.0
#: Agreement asked of a candidate: mean KL divergence (nats) of softened predictions, and share with the same top-1.
#: A student ends at a divergence of about 0.1 from its teacher.
MOST_DIVERGENCE, LEAST_SAME_TOP1 = 0.005, 0.97
#: Images that candidates are timed and compared on: a 64th of the training images, within these bounds.
FEWEST_IMAGES, MOST_IMAGES = 128, 512
#: Seconds that a view takes in the plain runtime, from which on candidates are tried.
WORTH_TRYING = 5.0
#: Building int8 took so many seconds, and besides as long as the plain runtime needs for so many images; it may cost
#: what it saves on two views if it is faster than the best so far by a half.
INT8_SECONDS, INT8_IMAGES = 3.0, 350
INT8_CALIBRATION = 128


@dataclass(frozen=True)
class Tried:
    """A candidate on some training images.

    Attributes:
        images_per_second: on all cores.
        divergence: mean KL divergence (nats) of its softened predictions from those of the PyTorch model in float32.
        same_top1: share of images with the same largest prediction.
    """

    images_per_second: float
    divergence: float = 0.0
    same_top1: float = 1.0

    @property
    def agrees(self) -> bool:
        """Whether it may stand for the base as a teacher."""
        return self.divergence <= MOST_DIVERGENCE and self.same_top1 >= LEAST_SAME_TOP1


@dataclass(frozen=True)
class Choice:
    """The name of the candidate that was chosen, and what was tried."""

    name: str
    tried: dict[str, Tried]

    def __str__(self) -> str:
        chosen, plain = self.tried[self.name], self.tried[PLAIN]
        beside = f" ({PLAIN}: {plain.images_per_second:,.0f})" if self.name != PLAIN else ""
        agreement = f"same top-1 as the base on {chosen.same_top1:.1%}, divergence {chosen.divergence:.1g}"
        return f"{self.name}, {chosen.images_per_second:,.0f} images/s{beside}; {agreement}"


def candidates(images: bool = True) -> dict[str, Recipe | None]:
    """What may be tried on this machine, by name: a recipe without model steps, or None for PyTorch itself.

    Args:
        images: whether there are images to calibrate int8 with.
    """
    found: dict[str, Recipe | None] = {PLAIN: Recipe((), "onnxruntime"), "openvino fp32": Recipe((), "openvino")}
    if computes_bf16():
        found["openvino bf16"] = Recipe((Step.make("bf16", store="fp32"),), "openvino")
    if cpu_has_bf16():
        found[TORCH_BF16] = None
    if images:
        hint = "bf16" if computes_bf16() else "f32"
        found[INT8] = Recipe((Step.make("ptq_int8", hint=hint, samples=INT8_CALIBRATION),), "openvino")
    return {name: recipe for name, recipe in found.items() if recipe is None or _installed(recipe)}


def _installed(recipe: Recipe) -> bool:
    try:
        with faults_told():  # a library that found no room in memory is not one that is missing
            get_runtime(recipe.runtime).require()
    except MissingPackageError:
        return False
    return all(step.handler.needs.missing() is None for step in recipe.steps)


class TeacherRuntime:
    """The base's predictions for teachers; which runtime gives them is decided at the first call.

    The decision is kept in the run's cache, so that a run that goes on, and every worker of it, stays with it.

    Args:
        base: what teaches.
        cache: of the run.
        progress: told of the decision.
    """

    def __init__(self, base: LoadedModel, cache: TensorCache, progress: Progress) -> None:
        self._base, self._cache, self._progress = base, cache, progress
        self._context: Context
        self._make: Callable[[Recipe], Artifact]
        self._opened: tuple[Choice, Session] | None = None
        self._built: dict[str, Artifact] = {}

    def begin(self, context: Context, make: Callable[[Recipe], Artifact]) -> None:
        """Be ready for calls.

        Args:
            context: with training and calibration images.
            make: gives the base's artifact for a recipe without model steps.
        """
        self._context, self._make = context, make

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Predictions float32 ``[B, ...]`` of normalised images float32 ``[B, C, H, W]``."""
        _, session = self._open()
        return _predicted(session, images)

    @property
    def choice(self) -> Choice:
        """What was chosen, and what it was chosen from; made now where it was not before."""
        return self._open()[0]

    @property
    def name(self) -> str:
        """What was chosen, such as ``openvino int8``."""
        return self.choice.name

    @property
    def notes(self) -> tuple[str, ...]:
        """What was chosen by this or another worker of the run, and how well it agrees; empty without a choice."""
        noted = self._noted()
        return () if noted is None or len(noted.tried) < 2 else (f"the base taught in {noted}",)

    def close(self) -> None:
        """Free the session."""
        if self._opened is not None:
            self._opened[1].close()
            self._opened = None

    def _open(self) -> tuple[Choice, Session]:
        if self._opened is None:
            with self._cache.claim(self._key, self._wait):
                noted = self._noted()
                session = None if noted is None else self._session_of(noted.name)
                if noted is None or session is None:
                    noted, session = self._choose()
                    plain = {"chosen": noted.name, "tried": {name: asdict(each) for name, each in noted.tried.items()}}
                    self._cache.write(self._key, {}, plain)
            if len(noted.tried) > 1:
                self._progress(f"teacher: {noted}", 0, 0)
            self._opened = noted, session
        return self._opened

    def _wait(self) -> None:
        self._progress("waiting for the choice of the teacher's runtime", 0, 0)

    @property
    def _key(self) -> str:
        assert self._context.train is not None
        return f"teacher/runtime-{content_hash(self._base.fingerprint, self._context.train.fingerprint)}"

    def _noted(self) -> Choice | None:
        found = self._cache.read(self._key)
        if found is None:
            return None
        plain: Mapping[str, Any] = found[1]
        return Choice(plain["chosen"], {name: Tried(**each) for name, each in plain["tried"].items()})

    def _session_of(self, name: str) -> Session | None:
        """The candidate's session; None where this machine cannot build or open it."""
        found = candidates(self._context.calibration is not None)
        if name not in found:
            return None
        recipe = found[name]
        try:
            if recipe is None:
                return ModuleSession(_Autocast(self._base.module.eval()), available_cores())
            with faults_told():  # of the machine: a run keeps its choice, so none is made by them
                self._built[name] = self._make(recipe)
                return open_pool(self._built[name], available_cores(), BATCH)
        except TrialError:
            return None

    def _choose(self) -> tuple[Choice, Session]:
        assert self._context.train is not None
        train, best = self._context.train, PLAIN
        session: Session = open_pool(self._make(Recipe((), "onnxruntime")), available_cores(), BATCH)
        images = self._sample(FEWEST_IMAGES)
        rate = _timed(session, images)[1]
        # A detector's predictions are no distribution over classes, so there is no agreement to state.
        if task_of(self._base.module).name != "classification" or len(train) / rate < WORTH_TRYING:
            return Choice(best, {best: Tried(rate)}), session
        self._progress("choosing the teacher's runtime", 0, 0)
        images = self._sample(min(MOST_IMAGES, max(FEWEST_IMAGES, len(train) // 64)))
        wanted = _predicted(ModuleSession(self._base.module.eval(), available_cores()), images)
        tried = {best: compared(session, images, wanted)}
        for name in candidates(self._context.calibration is not None):
            if name == PLAIN or (name == INT8 and not int8_pays(len(train), tried[PLAIN], tried[best])):
                continue
            other = self._session_of(name)
            if other is None:
                continue
            tried[name] = compared(other, images, wanted)
            if tried[name].agrees and tried[name].images_per_second > tried[best].images_per_second:
                best, session, other = name, other, session
            other.close()
        for name in self._built.keys() - {best, PLAIN}:  # a run keeps what it goes on with
            shutil.rmtree(self._built.pop(name).folder, ignore_errors=True)
        return Choice(best, tried), session

    def _sample(self, count: int) -> torch.Tensor:
        assert self._context.train is not None
        train = self._context.train
        return self._base.normalise(train.spread(min(count, len(train)), self._context.seed).images()).float()


def int8_pays(num_images: int, plain: Tried, best: Tried) -> bool:
    """Whether two views of ``num_images`` are likely to save what building int8 costs."""
    cost = INT8_SECONDS + INT8_IMAGES / plain.images_per_second
    return 2 * num_images / best.images_per_second / 3 > cost


def compared(session: Session, images: torch.Tensor, wanted: torch.Tensor) -> Tried:
    """A candidate's throughput and agreement.

    Args:
        images: normalised, ``[B, C, H, W]``.
        wanted: predictions ``[B, classes]`` of the PyTorch model in float32.
    """
    found, rate = _timed(session, images)
    if not bool(torch.isfinite(found).all()):
        return Tried(rate, float("inf"), 0.0)
    softened = [(logits / TEMPERATURE).log_softmax(1) for logits in (wanted, found)]
    divergence = (softened[0].exp() * (softened[0] - softened[1])).sum(1).mean()
    return Tried(rate, max(0.0, float(divergence)), float((wanted.argmax(1) == found.argmax(1)).float().mean()))


def _timed(session: Session, images: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Predictions, and images a second after a batch to warm up."""
    _predicted(session, images[:BATCH])
    begun = time.monotonic()
    found = _predicted(session, images)
    return found, len(images) / max(1e-9, time.monotonic() - begun)


def _predicted(session: Session, images: torch.Tensor) -> torch.Tensor:
    """Predictions of ``images``; the last run is filled up with the first image, whose further copies are left out."""
    filled = torch.cat([images, images[:1].expand(-len(images) % BATCH, *images.shape[1:])])
    parts = (part.numpy() for part in filled.split(BATCH))
    return torch.from_numpy(np.concatenate(list(session.run_all(parts)))[: len(images)])


class _Autocast(nn.Module):
    """A module on the CPU in bf16, which answers in float32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            found: torch.Tensor = self.module(images)
        return found.float()
