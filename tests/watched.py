"""A process that tells what it does line by line; where it dies or falls silent, that is said."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]


class EndedError(Exception):
    """The process died, or told nothing for too long; the message says which."""


def lines_of(command: Sequence[str], silence: float, given: str = "") -> Iterator[str]:
    """What a process prints, as it comes; it and all that it started end with the iteration.

    Args:
        command: run at the top of the repository.
        silence: seconds after which it hangs that told nothing.
        given: its standard input.

    Raises:
        EndedError: it did not come to its end.
    """
    told: queue.Queue[str | None] = queue.Queue()
    with tempfile.TemporaryFile("w+") as asked, tempfile.TemporaryFile() as words:
        asked.write(given)
        asked.seek(0)
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=asked, stdout=subprocess.PIPE, stderr=words, text=True, start_new_session=True
        )
        assert process.stdout is not None
        threading.Thread(target=_read, args=(process.stdout, told), daemon=True).start()
        try:
            while (line := told.get(timeout=silence)) is not None:
                yield line
            if process.wait(silence) != 0:
                raise EndedError(f"the process died: {_last_words(process.returncode, words)}")
        except (queue.Empty, subprocess.TimeoutExpired):
            raise EndedError(f"nothing came for {silence:.0f} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _read(stream: IO[str], told: queue.Queue[str | None]) -> None:
    with stream:
        for line in stream:
            told.put(line)
    told.put(None)


def _last_words(code: int, words: IO[bytes]) -> str:
    if code < 0:
        return f"by {signal.Signals(-code).name}"
    words.seek(0)
    lines = words.read().decode(errors="replace").strip().splitlines()
    return lines[-1][:500] if lines else f"exit code {code}"
