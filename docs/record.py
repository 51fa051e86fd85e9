"""The recording in the README: the example's search in a terminal of 80 columns, as an SVG that plays.

    python docs/record.py          # runs the commands, about 8 minutes: writes docs/quickstart.cast.gz, then draws it
    python docs/record.py --draw   # draws docs/quickstart.svg from the recording that is there

The recording is asciinema's (version 2): every byte that the commands wrote to a terminal, and when; only prompt and
typed commands are ours. The drawing shows the terminal as it stood every six seconds, and at the end. Needs pyte (``pip
install pyte``), which reads the terminal's control sequences.
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
#: The drawn terminal is as tall as the answer; the programs saw one of ROWS lines.
TALL, CELL, LINE, SIZE, EDGE = 38, 7.8, 17, 13, 12
#: Seconds of the recording between two screens that are drawn, and how long each of them, and the last, stays.
EVERY, STEP, LAST = 6.0, 0.35, 12.0
INK, PAPER = "#e6edf3", "#0d1117"
COLOURS = {"green": "#3fb950", "red": "#ff7b72", "brown": "#d29922", "blue": "#58a6ff", "cyan": "#39c5cf"}
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


def screens() -> Iterator[tuple[float, tuple[str, ...]]]:
    """What the terminal showed: the second, and its lines, each as SVG text without a place."""
    import pyte

    lines = gzip.decompress(CAST.read_bytes()).decode().splitlines()
    screen = pyte.Screen(COLUMNS, TALL)
    stream = pyte.Stream(screen)
    for line in lines[1:]:
        at, _, text = json.loads(line)
        stream.feed(text)
        yield at, tuple(_line(screen.buffer[row]) for row in range(TALL))


def _line(cells: Any) -> str:
    """A line of the screen: a ``tspan`` for each stretch of characters that look alike."""
    parts = []
    for look, group in groupby(range(COLUMNS), lambda column: (cells[column].fg, cells[column].bold)):
        columns = list(group)
        text = "".join(cells[column].data for column in columns)
        if not text.strip():
            continue
        colour = INK if look[0] == "default" else COLOURS.get(look[0], f"#{look[0]}")
        style = f' fill="{colour}"' * (colour != INK) + ' font-weight="bold"' * look[1]
        body = f'<tspan x="{columns[0] * CELL:g}"{style}>{escape(text.rstrip())}</tspan>'
        parts.append(body)
    return "".join(parts)


def frames() -> list[tuple[float, tuple[str, ...]]]:
    """The screens that are drawn, and for how many seconds each is shown."""
    shown, last, begun = [], (), -EVERY
    for at, lines in screens():
        if at - begun >= EVERY:
            shown.append((STEP, lines))
            begun = at
        last = lines
    return [*shown, (LAST, last)]


def drawing() -> str:
    """The recording as SVG: the screens side by side, of which the animation shows one after another."""
    played, width, height = frames(), COLUMNS * CELL + 2 * EDGE, TALL * LINE + 2 * EDGE
    numbers = {line: number for number, line in enumerate(dict.fromkeys(line for _, lines in played for line in lines))}
    whole, at, steps = sum(seconds for seconds, _ in played), 0.0, []
    for number, (seconds, _) in enumerate(played):
        steps.append(f"{100 * at / whole:.2f}%{{transform:translateX({-number * width:g}px)}}")
        at += seconds
    end = f"translateX({-(len(played) - 1) * width:g}px)"
    style = (
        f"text{{font:{SIZE}px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:{INK};white-space:pre}}"
        f"#all{{animation:play {whole:g}s steps(1,end) infinite}}"
        f"@keyframes play{{{''.join(steps)}100%{{transform:{end}}}}}"
        f"@media (prefers-reduced-motion:reduce){{#all{{animation:none;transform:{end}}}}}"
    )
    lines = "\n".join(f'<text id="l{number}">{line}</text>' for line, number in numbers.items() if line)
    shown = "\n".join(
        f'<g transform="translate({number * width + EDGE:g} {EDGE + SIZE})">'
        + "".join(f'<use href="#l{numbers[line]}" y="{row * LINE}"/>' for row, line in enumerate(rows) if line)
        + "</g>"
        for number, (_, rows) in enumerate(played)
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height}" width="{width:g}" height="{height}">'
    )
    title = f"<title>{escape(COMMANDS[0])}, recorded</title>"
    paper = f'<rect width="100%" height="100%" rx="6" fill="{PAPER}"/>'
    body = f'<defs>\n{lines}\n</defs>\n<g id="all">\n{shown}\n</g>'
    return f"{head}\n{title}\n<style>{style}</style>\n{paper}\n{body}\n</svg>\n"


if __name__ == "__main__":
    if "--draw" not in sys.argv:
        record()
    DRAWING.write_text(drawing())
