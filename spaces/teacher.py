"""The base model's logits per augmented view, computed once and kept: the teacher never runs inside a trial twice."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from sousvit.common.data import ImageSet
from sousvit.common.data.augment import View
from sousvit.common.files import content_hash, write_atomic
from sousvit.common.model import LoadedModel
from sousvit.spaces.training import predict

_IN_MEMORY = 16


class TeacherLogits:
    """Logits ``[N, classes]`` (fp16 on disk) of ``base`` on views of ``train``.

    Args:
        folder: where views are stored by content, or None to keep them in memory only.
        progress: called with ("teacher", view, 0) before a view is computed.
    """

    def __init__(
        self,
        base: LoadedModel,
        train: ImageSet,
        folder: Path | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        self._base, self._train, self._folder, self._progress = base, train, folder, progress
        self._memory: OrderedDict[str, torch.Tensor] = OrderedDict()

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
        if self._progress is not None:
            self._progress("teacher", view, 0)
        drawn = View.draw(augmentation, len(self._train), self._train.size, seed, view)  # type: ignore[arg-type]
        logits = predict(self._base.module, self._train, self._base.normalise, view=drawn).half()
        if self._folder is not None:
            write_atomic(self._folder / f"{key}.safetensors", save({"logits": logits}))
        return logits.float()
