"""Convolutions whose gradient CPUs compute slowly or wrongly, computed otherwise while a model trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn


@contextmanager
def trainable_convolutions(model: nn.Module) -> Iterator[None]:
    """Compute some strided convolutions of ``model`` otherwise inside the block, to the same result.

    * Depthwise ones in float32: CPUs have no fast kernel for their gradient in bf16 (measured: 60 ms instead of 4 for
      96 channels at 16 pixels).
    * 1x1 ones as the pixels that they read, and a convolution with a stride of 1: torch 2.14 writes past its buffers in
      the gradient of the weights of one with fewer than 16 channels on 56 pixels and more (oneDNN's ``jit_1x1``,
      channels last, AVX512), and the process dies.
    """
    found = []
    for part in model.modules():
        if isinstance(part, nn.Conv2d) and max(part.stride) > 1:
            if part.groups > 1:
                part.forward = partial(_in_float, part.forward)  # type: ignore[method-assign]
            elif type(part) is nn.Conv2d and part.kernel_size == (1, 1) and part.padding == (0, 0):
                part.forward = partial(_of_every_other_pixel, part)  # type: ignore[method-assign]
            else:
                continue
            found.append(part)
    try:
        yield
    finally:
        for part in found:
            del part.forward


def _in_float(forward: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return forward(x.float())


def _of_every_other_pixel(layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    down, right = layer.stride
    return F.conv2d(x[:, :, ::down, ::right], layer.weight, layer.bias)
