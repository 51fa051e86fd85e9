"""A measuring process (:mod:`.measure`), started and watched: its time, its memory, whether it is still wanted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import IO, TYPE_CHECKING, Any

from sousvit.errors import TrialError
from sousvit.objectives.devices.machine import memory_bytes
from sousvit.objectives.devices.protocol import Request
from sousvit.objectives.memory_probe import resident_bytes
from sousvit.objectives.runtimes.runtime import RUNTIMES

if TYPE_CHECKING:
    from sousvit.spaces.export.artifact import Artifact

#: Seconds between looks at the process; with a memory limit more often, because a runtime allocates fast.
LOOK, LOOK_AT_MEMORY = 0.2, 0.01
#: Of the machine's memory; where a process takes more, the system begins to end others.
MOST_MEMORY = 0.8
_OPERATION = {"time": "timing", "probe": "measuring memory", "energy": "measuring energy"}


class UnwantedError(RuntimeError):
    """Nobody waits for the answer any more; the process was stopped."""


def measure(request: Request, is_wanted: Callable[[], bool] = lambda: True) -> dict[str, Any]:
    """Carry out a request in a fresh process and return its plain answer.

    Resident memory is what a limit is held against, not address space, of which runtimes reserve far more than they
    use. The process is stopped when it is seen above the limit; a peak between two looks is told by the probe.

    Raises:
        TrialError: the process failed, took too long, or outgrew its memory.
        UnwantedError: ``is_wanted`` said no.
    """
    what = _OPERATION[request.ask]
    there = request.to_dict(lambda artifact: {"folder": str(artifact.folder.resolve())})
    plain = json.dumps({"plugins": plugins_of(request.artifacts.values()), "request": there})
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as words:
        given.write(plain.encode())
        given.seek(0)
        with start("measure", given, out, words) as process:
            try:
                _watch(process, request, what, is_wanted)
            finally:
                process.kill()
        out.seek(0)
        if process.returncode != 0:
            raise TrialError(f"{what} failed: {last_words(process, words)}")
        answer: dict[str, Any] = json.loads(out.read())
    return answer


def start(module: str, given: Any, out: Any, words: Any) -> subprocess.Popen[bytes]:
    """A process that runs a module of this folder, and ends with this one.

    Args:
        given, out, words: its standard input, output and error.
    """
    command = [sys.executable, "-m", f"sousvit.objectives.devices.{module}", str(os.getpid())]
    # numpy's threads have no part in this and would only take memory.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdin=given, stdout=out, stderr=words, env=environment)


def plugins_of(artifacts: Iterable[Artifact]) -> list[str]:
    """The plug-ins that a process needs to open ``artifacts``."""
    names = sorted({artifact.runtime for artifact in artifacts})
    return [reference for name in names if (reference := RUNTIMES.reference(name)) is not None]


def last_words(process: subprocess.Popen[bytes], words: IO[bytes]) -> str:
    """Why a process failed, in one line: its own last one, unless a signal ended it."""
    if process.returncode < 0:
        return f"its process was ended by {signal.Signals(-process.returncode).name}"
    words.seek(0)
    lines = words.read().decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else f"exit code {process.returncode}"


def most_memory() -> int:
    """Bytes that any measuring process may take, whatever its target: less than the machine has."""
    return int(MOST_MEMORY * memory_bytes())


def _watch(process: subprocess.Popen[bytes], request: Request, what: str, is_wanted: Callable[[], bool]) -> None:
    deadline = time.monotonic() + request.timeout
    look, limit = (LOOK, most_memory()) if request.memory_bytes is None else (LOOK_AT_MEMORY, request.memory_bytes)
    while True:
        try:
            process.wait(look)
            return
        except subprocess.TimeoutExpired:
            pass
        if time.monotonic() > deadline:
            raise TrialError(f"{what} took longer than {request.timeout:g} s")
        require_memory(resident_bytes(process.pid), limit)
        if not is_wanted():
            raise UnwantedError


def require_memory(used: int, limit: int | None) -> None:
    """A failed trial where ``used`` bytes are above the ``limit``.

    Raises:
        TrialError: they are.
    """
    if limit is not None and used > limit:
        raise TrialError(f"out of memory: the process needs {used / 1e6:.1f} MB, the target has {limit / 1e6:.0f} MB")
