"""Small real subjects: a tiny ViT, one with half the depth, their artifacts, timing, memory and predictions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from sousvit.common.data import ImageSet
from sousvit.common.model import normalise
from sousvit.objectives.memory import peak_memory
from sousvit.objectives.runtimes.runtime import open_session
from sousvit.objectives.tasks.classification import TopOneEvaluation, evaluate
from sousvit.objectives.timing import Timing, TimingPlan, compare
from sousvit.spaces.artifact import Artifact
from sousvit.spaces.export import make_artifact
from sousvit.spaces.technique import Context

SHAPE = (1, 3, 16, 16)
MEAN, STD = (0.5,) * 3, (0.25,) * 3
FAST = TimingPlan(min_seconds=0.02, max_seconds=0.04, min_groups=3, round_seconds=0.001, warmup=1)


def scale(images: torch.Tensor) -> torch.Tensor:
    return normalise(images, MEAN, STD)


def tiny_vit(depth: int = 2, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=32, num_heads=2, depth=depth, num_classes=4
    )
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.15)
    return model.eval()


class NoiseSource:
    """Seeded noise images with random labels."""

    name, class_names = "noise", ["a", "b", "c", "d"]

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(0)
        self.pixels = rng.integers(0, 256, (count, 16, 16, 3)).astype(np.uint8)
        self.labels = rng.integers(0, 4, count)
        self.fingerprint = f"noise{count}"

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index])


def noise_images(count: int = 80) -> ImageSet:
    return ImageSet(NoiseSource(count), np.arange(count), (16, 16))


@dataclass
class RealSubject:
    """The Subject protocol, each costly part on first use."""

    model: nn.Module
    folder: Path
    reference: RealSubject | None = None

    input_shape = SHAPE

    @property
    def base(self) -> RealSubject:
        return self.reference or self

    @cached_property
    def artifact(self) -> Artifact:
        return make_artifact(self.model, SHAPE, MEAN, STD, "onnxruntime", None, Context(scale), self.folder)

    @cached_property
    def timing(self) -> Timing:
        with open_session(self.artifact, 1, 1) as own, open_session(self.base.artifact, 1, 1) as base:
            return compare(own, base, SHAPE, FAST)

    @cached_property
    def memory_bytes(self) -> int:
        return peak_memory(self.artifact)

    @cached_property
    def evaluation(self) -> TopOneEvaluation:
        with open_session(self.artifact, 1) as session:
            return evaluate(session, noise_images(), scale)

    @property
    def weight_bits(self) -> float:
        return 8 * self.artifact.size_bytes / sum(parameter.numel() for parameter in self.model.parameters())


@pytest.fixture(scope="package")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("subjects")
    base = RealSubject(tiny_vit(2), folder / "base")
    return RealSubject(tiny_vit(1), folder / "half", base)


@pytest.fixture(scope="package")
def noise() -> tuple[ImageSet, Any]:
    return noise_images(), scale
