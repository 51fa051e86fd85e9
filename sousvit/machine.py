"""The machine: cores and their leases, CPU instructions, torch's device and threads, child processes, output streams.

Cheap to import: torch is imported inside the functions that need it.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import platform
import signal
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, TextIO

if TYPE_CHECKING:
    import torch


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


#: Open lease files of this process, by core; a core is free again once its file is closed or the process has ended.
_leases: dict[int, IO[bytes]] = {}
#: Cores that this process could use before it leased some.
_before: set[int] = set()


def lease_cores(count: int, folder: Path | None = None) -> list[int]:
    """Lease ``count`` free cores until this process ends, and pin it to them.

    Where the system cannot pin a process, or fewer cores are free, nothing is pinned.

    Args:
        folder: of the lease files; by default one for each machine and user.

    Returns:
        The leased cores; empty where nothing is pinned.
    """
    if not hasattr(os, "sched_setaffinity"):
        return []
    folder = folder or Path(tempfile.gettempdir()) / f"sousvit-cores-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True)
    allowed = sorted(os.sched_getaffinity(0))
    found = [core for core in allowed if core in _leases]
    for core in allowed:
        if len(found) < count and core not in found and _lease(core, folder):
            found.append(core)
    if len(found) < count:
        for core in found:
            _leases.pop(core).close()
        return []
    _before.update(allowed if not _before else ())
    _pin(found)
    return found


def release_cores() -> None:
    """Give leased cores back; this process may use all again that it could."""
    while _leases:
        _leases.popitem()[1].close()
    if _before:
        _pin(_before)
        _before.clear()


def _pin(cores: Iterable[int]) -> None:
    """Let every thread of this process run on these cores only."""
    tasks = Path("/proc/self/task")
    for thread in [int(task.name) for task in tasks.iterdir()] if tasks.is_dir() else [0]:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.sched_setaffinity(thread, cores)


def _lease(core: int, folder: Path) -> bool:
    """Lease a core; return whether it was free. The lock ends with its process, so no stale lease is left behind."""
    import fcntl

    stream = (folder / str(core)).open("ab")
    with contextlib.suppress(OSError):
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _leases[core] = stream
        return True
    stream.close()
    return False


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
        import torch

        return torch.autocast(self.name, self.dtype)

    def __str__(self) -> str:
        return f"{self.name} {'fp32' if self.dtype is None else str(self.dtype).removeprefix('torch.')}"


def training_device(precision: Precision = "auto") -> TrainingDevice:
    """The best device here, with bf16 autocast where the hardware has it (or as ``precision`` says)."""
    import torch

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
    import torch

    try:
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    except AttributeError:
        return False


@contextmanager
def fast_products() -> Iterator[None]:
    """Let torch multiply float32 matrices by oneDNN inside the block, in the whole process.

    MKL, torch's usual choice, takes twice as long on AMD (measured: 110 against 219 GFLOP/s a core, sums equal to
    1e-8). Where the CPU has tiles of bf16 (AMX), oneDNN may round the factors, not the sums, to bf16.
    """
    import torch

    products = getattr(torch.backends.mkldnn, "matmul", None)
    if products is None or not hasattr(products, "fp32_precision"):  # older torch
        yield
        return
    before = products.fp32_precision
    products.fp32_precision = "bf16"
    try:
        yield
    finally:
        products.fp32_precision = before


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch compute with ``count`` threads inside the block, in the whole process."""
    import torch

    before = torch.get_num_threads()
    if before != count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if before != count:
            torch.set_num_threads(before)


def end_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process when its parent ends, however it ends (Linux; elsewhere nothing happens).

    Args:
        parent: its process id, so that one that ended before this call is noticed; without it, a parent of process id 1
            (init, which adopts orphans) counts as ended.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() == 1 if parent is None else os.getppid() != parent:
            sys.exit(1)


#: Held while a stream is discarded, in the whole process: a second thread would restore the first one's.
_CHANGING = threading.RLock()


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Discard what is written to standard error inside the block, by compiled code too; exceptions pass."""
    with _discarded(2, sys.stderr), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def silent_stdout() -> Iterator[None]:
    """Discard what is written to standard output inside the block, by compiled code too; exceptions pass."""
    with _discarded(1, sys.stdout), contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def _discarded(descriptor: int, stream: TextIO) -> Iterator[None]:
    with _CHANGING:
        stream.flush()
        kept, nowhere = os.dup(descriptor), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, descriptor)
            yield
        finally:
            os.dup2(kept, descriptor)
            os.close(kept)
            os.close(nowhere)


@contextlib.contextmanager
def reserved_stdout() -> Iterator[TextIO]:
    """Standard output for the given stream alone.

    Whatever else is written there inside the block, by compiled code and child processes too, goes to standard error.
    """
    own = sys.stdout
    own.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            if _descriptor(own) == 1:
                with open(kept, "w", encoding=own.encoding, errors=own.errors, closefd=False) as stream:
                    yield stream
            else:  # someone has replaced it, and reads what is written there
                yield own
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):  # not backed by a file, or closed
        return None
