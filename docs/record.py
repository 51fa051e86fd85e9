"""The recording in the README: the example's search in a terminal of 80 columns, as an SVG that plays.

    python docs/record.py          # runs the commands, about 8 minutes: writes docs/quickstart.cast.gz, then draws it
    python docs/record.py --draw   # draws docs/quickstart.svg from the recording that is there

The recording is asciinema's (version 2): every byte that the commands wrote to a terminal, and when; only prompt and
typed commands are ours. The drawing shows what such a terminal showed at each moment. It shortens waiting, and nothing
else. Needs pyte (``pip install pyte``), which reads the terminal's control sequences.
"""

from __future__ import annotations

import codecs
import gzip
import json
import os
import pty
import sys
import termios
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

HERE = Path(__file__).parent
CAST, DRAWING = HERE / "quickstart.cast.gz", HERE / "quickstart.svg"
COLUMNS, ROWS = 80, 24
COMMANDS = ["sousvit search examples/fashion-mnist/budget.yaml --run mine", "ls runs/mine/bundle"]


def record() -> None:
    """Run the commands in the top folder, each in a terminal of its own, and write what they said."""
    begun, events = time.monotonic(), []

    def note(text: str) -> None:
        events.append([round(time.monotonic() - begun, 3), "o", text])

    for command in COMMANDS:
        note(f"$ {command}\r\n")
        child, terminal = pty.fork()
        if child == 0:
            os.chdir(HERE.parent)
            os.environ.update(TERM="xterm-256color", PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
            os.execvp("sh", ["sh", "-c", command])
        termios.tcsetwinsize(terminal, (ROWS, COLUMNS))
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while True:
            try:
                data = os.read(terminal, 65536)
            except OSError:  # what Linux says at the end of a terminal
                break
            if not data:
                break
            note(decoder.decode(data))
        os.waitpid(child, 0)
    note("$ ")
    head = {"version": 2, "width": COLUMNS, "height": ROWS}
    lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in (head, *events))
    CAST.write_bytes(gzip.compress(lines.encode(), 9, mtime=0))


if __name__ == "__main__":
    record()
