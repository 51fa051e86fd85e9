"""Facts about this machine, for the records: a figure without its machine means nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from functools import cache
from pathlib import Path
from typing import Any

from sousvit.machine import available_cores, cpu_flags

#: Instruction sets that decide how fast quantized and bf16 models are, as Linux names them (ARM's last).
FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "asimddp",
    "i8mm",
    "bf16",
)
LIBRARIES = (
    "torch",
    "timm",
    "onnx",
    "onnxruntime",
    "openvino",
    "nncf",
    "ai_edge_litert",
    "litert_torch",
    "numpy",
    "optuna",
)


@cache
def _facts() -> dict[str, Any]:
    return {
        "cpu": cpu_name(),
        "flags": [flag for flag in FLAGS if flag in cpu_flags()],
        "cores": available_cores(),
        "memory_gb": round(memory_bytes() / 1e9, 1),
        "os": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in LIBRARIES if (version := _version(name)) is not None},
    }


def machine_facts() -> dict[str, Any]:
    """CPU name, its relevant flags, usable cores, memory in 10^9 bytes, operating system, versions of libraries."""
    return {**_facts(), "flags": list(_facts()["flags"]), "versions": dict(_facts()["versions"])}


def memory_bytes() -> int:
    """Memory of the machine. Boards need no psutil: it is asked only where the system cannot tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        import psutil

        return int(psutil.virtual_memory().total)


def cpu_name() -> str:
    """The CPU's own name, or the architecture where it has none."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
