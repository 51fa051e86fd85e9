"""Small real subjects: a tiny ViT, one with half the depth, their artifacts, timing, memory and predictions."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
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

from sousvit.data import ImageSet
from sousvit.errors import TrialError
from sousvit.models.load import normalise
from sousvit.objectives.memory import probe_artifact
from sousvit.objectives.memory_probe import Probe
from sousvit.objectives.runtimes.runtime import open_session
from sousvit.objectives.targets.target import Target
from sousvit.objectives.tasks.classification import TopOneEvaluation, evaluate
from sousvit.objectives.timing import Timing, TimingPlan, compare
from sousvit.spaces.context import Context
from sousvit.spaces.export.artifact import Artifact
from sousvit.spaces.export.export import make_artifact

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
    def probe(self) -> Probe:
        return probe_artifact(self.artifact)

    @property
    def energy_mj(self) -> float:
        raise TrialError("no counter")

    def on(self, target: str) -> RealSubject:
        return self

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


class AgentProcess:
    """A real agent in a process of its own; ``start`` again on the same port is a device that was restarted."""

    def __init__(self, folder: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        self.log, self.options = folder / "agent.log", options
        self.environment = {**os.environ, "TMPDIR": str(folder), **(environment or {})}
        self.port, self.process = 0, None

    def start(self) -> AgentProcess:
        command = [
            sys.executable,
            "-m",
            "sousvit.objectives.devices.remote.agent",
            "--port",
            str(self.port),
            *self.options,
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=self.environment
            )
        line = self.process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:"), self.log.read_text()
        self.port = int(line.rsplit(":", 1)[1])
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def target(self, **changes: Any) -> Target:
        values = {"device": "board", "agent": f"http://127.0.0.1:{self.port}", "patience": 10, **changes}
        return Target.model_validate(values)

    def uploads(self) -> int:
        return self.log.read_text().count('"PUT ')


@pytest.fixture
def start_agent(tmp_path: Path) -> Iterator[Callable[..., AgentProcess]]:
    started: list[AgentProcess] = []

    def start(*options: str, **more: Any) -> AgentProcess:
        started.append(AgentProcess(tmp_path, *options, **more).start())
        return started[-1]

    yield start
    for agent in started:
        if agent.process.poll() is None:
            agent.kill()
