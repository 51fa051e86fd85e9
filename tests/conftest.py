"""What the whole suite shares: one thread, no network, and a tiny project (data, base model, budgets) on disk."""

from __future__ import annotations

import os

# Before torch and the runtimes load: workers started by tests inherit it, and pytest-xdist fills the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from sousvit.common.data import DataSpec
from sousvit.common.data.idx import write_idx
from sousvit.common.specs import ModelSpec

torch.set_num_threads(1)

TINY_VIT: dict[str, Any] = {
    "img_size": 16,
    "patch_size": 4,
    "in_chans": 1,
    "embed_dim": 32,
    "depth": 4,
    "num_heads": 4,
    "num_classes": 3,
    "class_token": False,
    "global_pool": "avg",
}


def pattern_images(count: int, seed: int, noise: float = 60.0, size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images ``[N, size, size]`` of three noisy classes (rows, columns, checkerboard); labels ``[N]``."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count).astype(np.uint8)
    row, column = np.mgrid[0:size, 0:size]
    phase = rng.integers(0, 4, (2, count, 1, 1))
    rows = ((row + phase[0]) // 2) % 2
    columns = ((column + phase[1]) // 2) % 2
    clean = np.choose(labels[:, None, None], [rows, columns, rows ^ columns])
    images = 64 + 128 * clean + rng.normal(0, noise, clean.shape)
    return images.clip(0, 255).astype(np.uint8), labels


@dataclass(frozen=True)
class TinyProject:
    """A folder with IDX data, a trained base model, and budgets that use them.

    ``root`` holds ``data/{train,test}-{images,labels}.idx.gz`` and ``base.safetensors``; ``test_top1`` is the
    base's accuracy there.
    """

    root: Path
    test_top1: float

    @property
    def checkpoint(self) -> Path:
        """The base model, described in its own metadata."""
        return self.root / "base.safetensors"

    @property
    def data(self) -> dict[str, Any]:
        """A budget's ``data``, with absolute paths."""
        return tiny_data(self.root)

    def budget(self, **changes: Any) -> dict[str, Any]:
        """A budget as plain values; ``changes`` replace top-level keys."""
        values = {
            "model": {"checkpoint": str(self.checkpoint)},
            "data": self.data,
            "targets": ["local-1-thread"],
            "limits": {"accuracy_drop": 0.5},
            "optimize": ["size"],
            "search": {"trials": 4, "seed": 0},
        }
        return {**values, **changes}

    def write_budget(self, path: Path, **changes: Any) -> Path:
        """Write :meth:`budget` to ``path``."""
        path.write_text(yaml.safe_dump(self.budget(**changes), sort_keys=False))
        return path

    def model_spec(self) -> ModelSpec:
        """The base, resolved."""
        return ModelSpec(checkpoint=str(self.checkpoint)).resolved(self.root)

    def data_spec(self) -> DataSpec:
        """The data, resolved."""
        return DataSpec(**self.data)


def tiny_data(root: Path) -> dict[str, Any]:
    """The ``data`` key of a tiny project at ``root``: 600 training, 100 validation and 200 test images."""
    return {
        "format": "idx",
        "train": str(root / "data" / "train-images.idx.gz"),
        "test": str(root / "data" / "test-images.idx.gz"),
        "validation": {"last": 100},
        "calibration": 64,
    }


def write_tiny_data(root: Path) -> None:
    (root / "data").mkdir()
    for part, count, seed in (("train", 700, 1), ("test", 200, 2)):
        images, labels = pattern_images(count, seed)
        write_idx(root / "data" / f"{part}-images.idx.gz", images)
        write_idx(root / "data" / f"{part}-labels.idx.gz", labels)


@pytest.fixture(scope="session")
def tiny_project(tmp_path_factory: pytest.TempPathFactory) -> TinyProject:
    """Data and a base model trained for a few seconds to clearly more than chance; do not write into its folder."""
    from sousvit.spaces.base_training import TrainingSpec, TrainSpec, train_base

    root = tmp_path_factory.mktemp("tiny")
    write_tiny_data(root)
    spec = TrainSpec(
        model=ModelSpec(name="vit_tiny_patch16_224", args=TINY_VIT, mean=(0.5,), std=(0.27,)),
        data=DataSpec(**tiny_data(root)),
        training=TrainingSpec(epochs=10, learning_rate=2e-2, batch_size=50, augmentation="none", precision="fp32"),
    )
    description = train_base(spec, root / "base.safetensors", say=lambda line: None)
    assert description["validation_top1"] > 0.8, description
    return TinyProject(root, description["test_top1"])
