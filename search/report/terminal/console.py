"""Consoles, and a bar on stderr for commands that take a while."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

#: Columns of a label in front of a line.
LABEL = 9


def console(stderr: bool = False) -> Console:
    """A console; a terminal's breaks lines between words, any other leaves them whole, as a log wants them."""
    is_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, soft_wrap=not is_terminal, width=None if is_terminal else 160)


def say(out: Console, text: str, label: str = "", style: str = "") -> None:
    """Print a line behind its ``label``; where the console breaks lines, the rest stands below its beginning."""
    head = f"{label:<{LABEL}}" if label else ""
    if out.soft_wrap:
        lines = [head + text]
    else:
        indent = " " * (len(head) or 2)
        lines = textwrap.wrap(text, out.width, initial_indent=head, subsequent_indent=indent, break_on_hyphens=False)
    out.print("\n".join(lines), style=style or None, highlight=False, markup=False)


class Spinner:
    """A bar on stderr for one-off commands; silent without a terminal, but for :meth:`say`."""

    def __init__(self, bar: Progress, task: Any, quiet: bool) -> None:
        self._bar, self._task, self._quiet = bar, task, quiet

    def __call__(self, what: str, done: int, total: int) -> None:
        self._bar.update(self._task, description=what, completed=done, total=total or None)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if not self._quiet:
            self._bar.console.print(text, highlight=False, markup=False)


@contextmanager
def spinner(what: str, quiet: bool = False) -> Iterator[Spinner]:
    """Shows that something goes on."""
    out = console(stderr=True)
    with _bar(out, disable=quiet or not out.is_terminal) as bar:
        yield Spinner(bar, bar.add_task(what, total=None), quiet)


def training_progress(spinner_: Spinner) -> Callable[[int, int, int, float], None]:
    """Bar a step, line an epoch."""

    def progress(epoch: int, step: int, steps: int, loss: float) -> None:
        spinner_(f"epoch {epoch + 1} loss {loss:.3f}", step + 1, steps)
        if step + 1 == steps:
            spinner_.say(f"epoch {epoch + 1}: loss {loss:.3f}")

    return progress


def _bar(out: Console, disable: bool) -> Progress:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=out, transient=True, disable=disable)
