"""A process that holds one session: ``python -m sousvit.objectives.devices.session_process PARENT_PID``.

It gets ``{"artifact": ..., "plugins": [...], "threads": ...}`` as a line of JSON on stdin, and then batches; it
answers each on stdout. A batch and an answer are a line of JSON with ``shape``, followed by the float32 numbers; what
failed is a line with ``error``. Imports nothing but numpy and the runtime.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sousvit.errors import TrialError, one_line
from sousvit.machine import end_with_parent
from sousvit.objectives.devices.protocol import read_artifact
from sousvit.objectives.runtimes.runtime import RUNTIMES, open_session

#: Of a line of JSON, and of the numbers of one batch or answer.
MAX_LINE, MAX_NUMBERS = 1 << 16, 1 << 30


def send(stream: BinaryIO, array: np.ndarray) -> None:
    """Write a float32 array."""
    stream.write(json.dumps({"shape": array.shape}).encode() + b"\n")
    stream.write(np.ascontiguousarray(array, np.float32).tobytes())
    stream.flush()


def receive(stream: BinaryIO) -> np.ndarray | None:
    """The next array; None where the other side has ended.

    Raises:
        TrialError: the other side says so, or what it sends is no array.
    """
    line = stream.readline(MAX_LINE)
    try:
        if not line.endswith(b"\n"):
            return None
        given = json.loads(line)
        if "error" in given:
            raise TrialError(str(given["error"])[:300])
        shape = [int(size) for size in given["shape"]]
        count = math.prod(shape)
        if min(shape, default=1) < 0 or count > MAX_NUMBERS:
            raise TrialError(f"an array of shape {shape} is too large")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TrialError(f"the model's process gave no array: {one_line(error)}") from error
    numbers = stream.read(4 * count)
    return np.frombuffer(numbers, np.float32).reshape(shape) if len(numbers) == 4 * count else None


def main() -> int:
    """Command line: answer batches until there are no more."""
    end_with_parent(int(sys.argv[1]))
    # What libraries print must not mix with the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        given = json.loads(sys.stdin.buffer.readline())
        for reference in given["plugins"]:
            RUNTIMES.load(reference)
        artifact = read_artifact(given["artifact"], lambda plain: Path(plain["folder"]))
        with open_session(artifact, given["threads"]) as session:
            send(answers, np.zeros(0))  # opened
            while (batch := receive(sys.stdin.buffer)) is not None:
                send(answers, session.run(batch))
    except Exception as error:  # the parent shows the line
        said = str(error) if isinstance(error, TrialError) else one_line(error)
        answers.write(json.dumps({"error": " ".join(said.split())}).encode() + b"\n")
        answers.flush()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
