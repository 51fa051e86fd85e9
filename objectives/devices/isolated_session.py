"""A session in a process of its own, for artifacts of others: one that hangs or crashes fails alone."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import threading
import time
from typing import TYPE_CHECKING, BinaryIO, cast

from sousvit.errors import TrialError
from sousvit.objectives.devices import process
from sousvit.objectives.devices.protocol import describe
from sousvit.objectives.devices.session_process import receive, send
from sousvit.objectives.memory_probe import resident_bytes
from sousvit.objectives.runtimes.runtime import Session

if TYPE_CHECKING:
    import numpy as np

    from sousvit.spaces.export.artifact import Artifact


class IsolatedSession(Session):
    """A session in a process of its own.

    Args:
        artifact: anyone's.
        threads: of the session.
        timeout: seconds that opening it, and each run, may take.

    Raises:
        TrialError: the artifact does not open.
    """

    def __init__(self, artifact: Artifact, threads: int, timeout: float) -> None:
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the session
        self._process = process.start("session_process", subprocess.PIPE, subprocess.PIPE, self._words)
        self._watch = _Watch(self._process, timeout)
        plain = {**describe(artifact), "folder": str(artifact.folder.resolve())}
        given = {"artifact": plain, "plugins": process.plugins_of([artifact]), "threads": threads}
        try:
            self._asked(json.dumps(given).encode() + b"\n", None)
        except BaseException:
            self.close()
            raise

    def run(self, batch: np.ndarray) -> np.ndarray:
        return self._asked(b"", batch)

    def _asked(self, line: bytes, batch: np.ndarray | None) -> np.ndarray:
        """The answer to a line or a batch."""
        given, made = cast(BinaryIO, self._process.stdin), cast(BinaryIO, self._process.stdout)
        with self._watch:
            answer = None
            with contextlib.suppress(BrokenPipeError):
                given.write(line)
                if batch is not None:
                    send(given, batch)
                given.flush()
            answer = receive(made)
        if answer is None:
            self._process.kill()
            self._process.wait()
            reason = self._watch.reason or process.last_words(self._process, self._words)
            raise TrialError(f"running the model failed: {reason}")
        return answer

    def close(self) -> None:
        self._watch.end()
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout, self._words):
            with contextlib.suppress(BrokenPipeError):  # what was not read any more
                stream.close() if stream is not None else None
        self._process.wait()


class _Watch:
    """Kills a process that takes too long to answer, or too much memory; used as a context while it is asked.

    Attributes:
        reason: why it was killed.
    """

    def __init__(self, watched: subprocess.Popen[bytes], timeout: float) -> None:
        self.reason = ""
        self._process, self._timeout = watched, timeout
        self._deadline = float("inf")
        self._ended = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def __enter__(self) -> None:
        self._deadline = time.monotonic() + self._timeout

    def __exit__(self, *_: object) -> None:
        self._deadline = float("inf")

    def end(self) -> None:
        self._ended.set()

    def _look(self) -> None:
        limit = process.most_memory()
        while not self._ended.wait(process.LOOK):
            try:
                process.require_memory(resident_bytes(self._process.pid), limit)
                if time.monotonic() > self._deadline:
                    raise TrialError(f"it took longer than {self._timeout:g} s")
            except TrialError as error:
                self.reason = str(error)
                self._process.kill()
                return
