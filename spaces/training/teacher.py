"""The teacher: the base model's predictions on each augmented view, computed once and stored."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import nn

from sousvit.cache import TensorCache
from sousvit.data import ImageSet
from sousvit.data.augment import View
from sousvit.files import content_hash
from sousvit.machine import training_device
from sousvit.models.load import LoadedModel
from sousvit.spaces.training.transfer import represent

_IN_MEMORY = 16
_CHUNK = 256


class Forward(Protocol):
    """The base's predictions from something faster than the PyTorch model."""

    @property
    def name(self) -> str:
        """What computes them, such as ``openvino int8``; kept beside each stored view."""
        ...

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Predictions ``[B, ...]`` of normalised images ``[B, C, H, W]``."""
        ...


class Teacher:
    """Predictions ``[N, ...]``, and features where they are asked for, of ``base`` on views of ``train``; kept as fp16.

    Args:
        cache: where views are stored by content, or None to keep them in memory only.
        progress: called with ("teacher", images done, images) while a view is computed.
        forward: what computes predictions, where something is faster than the PyTorch model. A stored view is read
            whatever computed it: all that may teach agree with the base.
    """

    def __init__(
        self,
        base: LoadedModel,
        train: ImageSet,
        cache: TensorCache | None = None,
        progress: Callable[[str, int, int], None] | None = None,
        forward: Forward | None = None,
    ) -> None:
        self._base, self._train, self._cache, self._progress = base, train, cache, progress
        self._forward = forward
        self._memory: OrderedDict[str, dict[str, torch.Tensor]] = OrderedDict()
        self._others: dict[str, torch.Tensor] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self.seconds = 0.0  #: spent on computing views so far

    def __call__(self, augmentation: str, seed: int, view: int) -> torch.Tensor:
        """The predictions on one view; a missing or damaged file is computed again."""
        return self._stored("logits", augmentation, seed, view)["logits"].float()

    def features(self, augmentation: str, seed: int, view: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Pooled features (or maps) and activation strengths of one view."""
        found = self._stored("features", augmentation, seed, view)
        return found["pooled"], found.get("strength")

    def on(self, images: ImageSet) -> torch.Tensor:
        """Predictions on other images without augmentation; computed once for the same images."""
        if images.fingerprint not in self._others:
            parts = [self._logits(self._base.normalise(images.images(rows))) for rows in _chunks(len(images))]
            self._others[images.fingerprint] = torch.cat(parts)
        return self._others[images.fingerprint]

    @property
    def feature_width(self) -> int:
        """Channels of the pooled features."""
        return self._shape("features")[0]

    def _shape(self, kind: str) -> tuple[int, ...]:
        """Shape of one image's predictions, or of its features."""
        if kind not in self._shapes:
            images = self._base.normalise(self._train.images(torch.arange(1)))
            one = self._torch(images) if kind == "logits" else self._represent(images)["pooled"]
            self._shapes[kind] = tuple(one.shape[1:])
        return self._shapes[kind]

    def _stored(self, kind: str, augmentation: str, seed: int, view: int) -> dict[str, torch.Tensor]:
        key = content_hash(self._base.fingerprint, self._train.fingerprint, augmentation, seed, view)
        if kind != "logits":
            key = f"{key}-{kind}"
        if key not in self._memory:
            stored = self._read(key, kind)
            self._memory[key] = self._compute(key, kind, augmentation, seed, view) if stored is None else stored
            while len(self._memory) > _IN_MEMORY:
                self._memory.popitem(last=False)
        self._memory.move_to_end(key)
        return self._memory[key]

    def _read(self, key: str, kind: str) -> dict[str, torch.Tensor] | None:
        stored = None if self._cache is None else self._cache.read(f"teacher/{key}")
        if stored is None:
            return None
        found = stored[0]
        main = found.get("logits" if kind == "logits" else "pooled")
        return found if main is not None and main.shape == (len(self._train), *self._shape(kind)) else None

    def _compute(self, key: str, kind: str, augmentation: str, seed: int, view: int) -> dict[str, torch.Tensor]:
        drawn = View.draw(augmentation, len(self._train), self._train.size, seed, view)  # type: ignore[arg-type]
        begun = time.monotonic()
        forward = None if kind == "features" else self._forward
        runtime = f"torch {training_device()}" if forward is None else forward.name
        found = {name: value.half() for name, value in self._predict(drawn, kind).items()}
        self.seconds += time.monotonic() - begun
        if self._cache is not None:
            self._cache.write(f"teacher/{key}", found, {"runtime": runtime})
        return found

    def _predict(self, view: View, kind: str) -> dict[str, torch.Tensor]:
        parts: list[dict[str, torch.Tensor]] = []
        for rows in _chunks(len(self._train)):
            if self._progress is not None:
                self._progress("teacher", int(rows[0]), len(self._train))
            images = self._base.normalise(view.read(self._train, rows))
            if kind == "features":
                parts.append(self._represent(images))
            else:
                parts.append({"logits": self._logits(images)})
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _logits(self, images: torch.Tensor) -> torch.Tensor:
        return self._torch(images) if self._forward is None else self._forward(images)

    def _torch(self, images: torch.Tensor) -> torch.Tensor:
        return self._on_device(lambda module, batch: {"logits": module(batch)}, images)["logits"]

    def _represent(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        def run(module: nn.Module, batch: torch.Tensor) -> dict[str, torch.Tensor]:
            seen = represent(module, batch)
            return {"pooled": seen.pooled} | ({} if seen.strength is None else {"strength": seen.strength})

        return self._on_device(run, images)

    @torch.inference_mode()
    def _on_device(
        self, run: Callable[[nn.Module, torch.Tensor], dict[str, torch.Tensor]], images: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        device = training_device()
        module = self._base.module.to(device.name).eval()
        with device.autocast():
            found = {name: value.float().cpu() for name, value in run(module, images.to(device.name)).items()}
        module.to("cpu")
        return found


def _chunks(count: int) -> Iterator[torch.Tensor]:
    for start in range(0, count, _CHUNK):
        yield torch.arange(start, min(start + _CHUNK, count))
