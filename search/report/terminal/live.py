"""Live progress of a search on stderr: a line a trial, and below them how far it is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from sousvit.objectives.objective import Measurement
from sousvit.search.budget import Budget
from sousvit.search.callbacks import AnswerStage, Counts
from sousvit.search.report.terminal.console import console, say
from sousvit.search.report.terminal.figures import compared, costs_asked
from sousvit.search.report.terminal.following import STAGES, Following
from sousvit.search.report.terminal.trial_line import trial_line
from sousvit.search.report.terminal.words import by_reason, duration, short_recipe, with_unit
from sousvit.search.trial import BaseRecord, Trial, quality_of, word_of

if TYPE_CHECKING:
    from sousvit.spaces.space import Space

#: Said once on a line of their own where there is no live bar.
SLOW_PARTS = frozenset(
    {"loading model and data", "teacher", "synthesising images", "training a generator", "timing all rows, interleaved"}
)
#: Beginnings of progress that says what cannot be known before.
TOLD = ("building: ", "teacher: ")


class SearchView(Following):
    """Live progress on stderr: a line a trial, and what is being done right now.

    On a terminal three lines below say the trial and the time, the best recipe so far, and what is done; elsewhere
    every line begins with the time of day.

    Args:
        budget, folder, begun: see :class:`.Following`.
        out: where to; stderr by default.
    """

    def __init__(self, budget: Budget, folder: Path, begun: float | None = None, out: Console | None = None) -> None:
        super().__init__(budget, folder, begun)
        self._console = out or console(stderr=True)
        self._live = Live(_Status(self), console=self._console, transient=True, refresh_per_second=4)

    def __enter__(self) -> SearchView:
        if self._console.is_terminal:
            self._live.start()
        limits = ", ".join(map(str, self.budget.hard_limits)) or "none"
        self.on_message(f"run {self.folder}; target {self.budget.where}")
        self.on_message(f"limits: {limits}; optimise {', '.join(self.budget.optimize)}{_preferred(self.budget)}")
        return self

    def __exit__(self, *exception: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def on_message(self, text: str) -> None:
        """Print a line above what changes."""
        say(self._console, text if self._console.is_terminal else f"{time.strftime('%H:%M:%S')} {text}")

    def on_start(self, base: BaseRecord, space: Space, left_out: Mapping[str, str]) -> None:
        super().on_start(base, space, left_out)
        figures = ", ".join(
            f"{name} {with_unit(name, base.values[name])}"
            for name in (quality_of(base.values), "latency", "size", "macs")
            if name in base.values
        )
        self.on_message(f"base (ONNX Runtime fp32, {self.budget.data.validation_name}): {figures}")
        for reason, names in by_reason(left_out).items():
            self.on_message(f"left out: {', '.join(names)} ({reason})")
        self.on_message(f"space: {space.size:,} combinations")

    def on_progress(self, what: str, done: int, total: int) -> None:
        is_new = what != self.what
        super().on_progress(what, done, total)
        if is_new and (what.startswith(TOLD) or (what in SLOW_PARTS and not self._console.is_terminal)):
            self.on_message(f"  ... {what}")

    def on_trial(self, trial: Trial, counts: Counts) -> None:
        super().on_trial(trial, counts)
        self.on_message(trial_line(trial, counts, self.budget))

    def on_stage(self, stage: AnswerStage) -> None:
        super().on_stage(stage)
        if not self._console.is_terminal:
            self.on_message(f"  ... answer: {stage.value}")


class _Status:
    """The lines that change, as they are when they are drawn."""

    def __init__(self, view: SearchView) -> None:
        self._view = view

    def __rich_console__(self, out: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        for line in status_lines(self._view):
            yield Text(line, no_wrap=True, overflow="ellipsis", end="\n")
        done, total = self._view.done, self._view.total
        if total and width > 40:
            yield ProgressBar(total=total, completed=done, width=min(40, width))


def status_lines(view: Following) -> list[str]:
    """How far the search is, the best so far where there is one, and what is being done."""
    counts, limits = view.counts, view.budget.search
    place = f"trial {min(counts.of_run + 1, limits.trials)} of {limits.trials}"
    if view.stage is not None:
        place = f"answer {STAGES.index(view.stage) + 1} of {len(STAGES)}: {view.stage.value}"
    left = "" if view.left is None else f", {duration(view.left)} left"
    front = f" | front {counts.front}" if counts.front else ""
    lines = [f"{place} | {duration(view.spent)} spent{left}{front}"]
    if counts.best is not None:
        lines.append(f"best: {_short_gains(counts.best, view.budget)} | {short_recipe(counts.best.recipe)}")
    doing = f"[{view.origin}] {view.what}" if view.origin else view.what
    return [*lines, doing or ("starting" if view.stage is None else view.stage.value)]


def _short_gains(trial: Trial, budget: Budget) -> str:
    """The best recipe's figures without their intervals."""
    found = []
    for name in costs_asked(budget, trial.values)[:2]:
        ratio = trial.values.get(f"{name}_ratio")
        if ratio is not None and ratio.value > 0:
            found.append(compared(name, Measurement(ratio.value)))
    quality = quality_of(trial.values)
    return ", ".join([*found, f"{word_of(trial.values)} {100 * trial.get(quality):.2f}%"])


def _preferred(budget: Budget) -> str:
    """``; prefer latency x 2, size x 1``, or nothing."""
    weights = ", ".join(f"{name} x {weight:g}" for name, weight in budget.prefer.items())
    return f"; prefer {weights}" if weights else ""
