"""Strided convolutions compute the same in training, on kernels that do not break."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from sousvit.spaces.training.convolutions import trainable_convolutions

STUDENT = """
import torch
from sousvit.data.memory import memory_set
from sousvit.spaces.techniques.students.convolutional import Network
from sousvit.spaces.training.loop import fit
from sousvit.spaces.training.plan import TrainingPlan

torch.set_num_threads(1)
pixels = torch.randint(0, 256, (64, 3, 224, 224), dtype=torch.uint8)
images = memory_set("noise", pixels, torch.arange(64) % 10, "noise")
plan = TrainingPlan(epochs=2, batch_size=32, augmentation="none")
fit(Network("residual", 8, 2, (224, 224), 3, 10).build(), images, lambda batch: batch.float() / 128 - 1, plan)
print("trained")
"""


def test_a_narrow_student_of_large_images_trains() -> None:
    """In a process of its own: where the kernel breaks, it dies."""
    done = subprocess.run([sys.executable, "-c", STUDENT], capture_output=True, text=True, timeout=300)
    assert done.stdout == "trained\n" and done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 12, 1, 2),
        nn.Conv2d(8, 12, 1, (2, 3), bias=False),
        nn.Conv2d(8, 8, 3, 2, padding=1, groups=8),
        nn.Conv2d(8, 12, 1, 2, padding=1),
        nn.Conv2d(8, 12, 3, 2),
    ],
    ids=["1x1", "1x1, two strides", "depthwise", "1x1, padded", "3x3"],
)
@pytest.mark.parametrize("side", [11, 12])
def test_a_convolution_computes_the_same_and_is_left_as_it_was(layer: nn.Conv2d, side: int) -> None:
    images = torch.randn(3, 8, side, side)
    wanted, before = layer(images), {name: id(value) for name, value in vars(layer).items()}
    with trainable_convolutions(nn.Sequential(layer)):
        given = layer(images)
        gradient = torch.autograd.grad(given.square().sum(), layer.weight)[0]
    torch.testing.assert_close(given, wanted, rtol=1e-5, atol=1e-5)
    assert {name: id(value) for name, value in vars(layer).items()} == before
    torch.testing.assert_close(torch.autograd.grad(wanted.square().sum(), layer.weight)[0], gradient)
