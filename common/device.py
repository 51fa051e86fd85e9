"""Where training runs and in which precision: CUDA or MPS where present, otherwise the CPU.

bf16 autocast is used where the hardware computes it: on a CPU without AVX512-BF16 or AMX it is emulated
and was measured 4.6 times *slower* than fp32, so ``auto`` asks the CPU first.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class TrainingDevice:
    """A torch device and its autocast type (``None``: fp32)."""

    name: str
    dtype: torch.dtype | None

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The context to run forward passes in."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.name, self.dtype)

    def __str__(self) -> str:
        return f"{self.name} {'fp32' if self.dtype is None else str(self.dtype).removeprefix('torch.')}"


def training_device(precision: Precision = "auto") -> TrainingDevice:
    """The best device here, with bf16 autocast where the hardware has it (or as ``precision`` says)."""
    if torch.cuda.is_available():
        name, has_bf16 = "cuda", torch.cuda.is_bf16_supported()
    elif torch.backends.mps.is_available():
        name, has_bf16 = "mps", False
    else:
        name, has_bf16 = "cpu", cpu_has_bf16()
    wanted = has_bf16 if precision == "auto" else precision == "bf16"
    return TrainingDevice(name, torch.bfloat16 if wanted else None)


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 matrices in hardware."""
    try:
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    except AttributeError:
        return False
