"""The base model's logits per augmented view, computed once and kept: the teacher never runs inside a trial twice."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from sousvit.common.data import ImageSet
from sousvit.common.data.augment import View
from sousvit.common.device import training_device
from sousvit.common.files import content_hash, write_atomic
from sousvit.common.model import LoadedModel

_IN_MEMORY = 16
_CHUNK = 256


class TeacherLogits:
    """Logits ``[N, classes]`` (fp16 on disk) of ``base`` on views of ``train``.

    Args:
        folder: where views are stored by content, or None to keep them in memory only.
        progress: called with ("teacher", images done, images) while a view is computed.
        forward: normalised images ``[B, C, H, W]`` to logits, where something is faster than the PyTorch model
            (ONNX Runtime was measured about twice as fast on CPUs).
    """

    def __init__(
        self,
        base: LoadedModel,
        train: ImageSet,
        folder: Path | None = None,
        progress: Callable[[str, int, int], None] | None = None,
        forward: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self._base, self._train, self._folder, self._progress = base, train, folder, progress
        self._forward = forward
        self._memory: OrderedDict[str, torch.Tensor] = OrderedDict()
        self.seconds = 0.0  #: spent on computing views so far

    def __call__(self, augmentation: str, seed: int, view: int) -> torch.Tensor:
        """The logits on one view; a missing or damaged file is computed again."""
        key = content_hash(self._base.fingerprint, self._train.fingerprint, augmentation, seed, view)
        if key not in self._memory:
            stored = self._read(key)
            self._memory[key] = self._compute(key, augmentation, seed, view) if stored is None else stored
            while len(self._memory) > _IN_MEMORY:
                self._memory.popitem(last=False)
        self._memory.move_to_end(key)
        return self._memory[key]

    def _read(self, key: str) -> torch.Tensor | None:
        if self._folder is None or not (self._folder / f"{key}.safetensors").is_file():
            return None
        try:
            logits = load_file(self._folder / f"{key}.safetensors")["logits"]
        except (SafetensorError, KeyError, OSError):
            return None
        return logits.float() if logits.shape == (len(self._train), self._base.num_classes) else None

    def _compute(self, key: str, augmentation: str, seed: int, view: int) -> torch.Tensor:
        drawn = View.draw(augmentation, len(self._train), self._train.size, seed, view)  # type: ignore[arg-type]
        begun = time.monotonic()
        logits = self._predict(drawn).half()
        self.seconds += time.monotonic() - begun
        if self._folder is not None:
            write_atomic(self._folder / f"{key}.safetensors", save({"logits": logits}))
        return logits.float()

    def _predict(self, view: View) -> torch.Tensor:
        parts = []
        for start in range(0, len(self._train), _CHUNK):
            if self._progress is not None:
                self._progress("teacher", start, len(self._train))
            rows = torch.arange(start, min(start + _CHUNK, len(self._train)))
            images = self._base.normalise(view.apply(self._train.images(rows), rows))
            parts.append(self._torch(images) if self._forward is None else self._forward(images))
        return torch.cat(parts)

    @torch.inference_mode()
    def _torch(self, images: torch.Tensor) -> torch.Tensor:
        device = training_device()
        module = self._base.module.to(device.name).eval()
        with device.autocast():
            logits = module(images.to(device.name)).float().cpu()
        module.to("cpu")
        return logits
