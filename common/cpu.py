"""The CPU: usable cores, and which instructions it has where they decide how quantized models behave. No torch."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path


@cache
def cpu_flags() -> frozenset[str]:
    """Lower-case instruction-set names as Linux lists them; empty where they cannot be read."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        if line.partition(":")[0].strip() in ("flags", "Features"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def computes_bf16() -> bool:
    """Whether the CPU multiplies bf16 matrices itself."""
    return bool(cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"})


def int8_saturates() -> bool:
    """Whether u8 x s8 products are summed in 16 bits and can overflow: x86 without VNNI (``vpmaddubsw``)."""
    x86 = platform.machine().lower() in ("x86_64", "amd64", "i386", "i686")
    return x86 and not cpu_flags() & {"avx512_vnni", "avx_vnni"}


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
