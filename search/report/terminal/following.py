"""What is known of a search while it runs: how far it is, how long it took and takes, and what it has found."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sousvit.search.archive import EVENTS, Archive
from sousvit.search.callbacks import AnswerStage, Callback, Counts
from sousvit.search.trial import Trial

if TYPE_CHECKING:
    from sousvit.search.budget import Budget
    from sousvit.search.trial import BaseRecord
    from sousvit.spaces.recipe import Recipe
    from sousvit.spaces.space import Space

STAGES = list(AnswerStage)


class Following(Callback):
    """A callback that keeps account.

    Args:
        budget: its trials and time.
        folder: of the run; what an earlier session took of its time counts.
        begun: when this command began, on ``clock``.

    Attributes:
        counts: of the last trial; ``stage`` of the answer, None while the search goes on.
        what, done, total: what is being done right now.
        origin: who asked for the trial that runs.
    """

    def __init__(
        self, budget: Budget, folder: Path, begun: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.budget, self.folder, self._clock = budget, folder, clock
        self._begun = clock() if begun is None else begun
        self._before = Archive(folder).spent_seconds if (folder / EVENTS).is_file() else 0.0
        self._searching: float | None = None
        self._answering = 0.0
        self.counts = Counts()
        self.stage: AnswerStage | None = None
        self.what, self.done, self.total, self.origin = "", 0, 0, ""

    @property
    def spent(self) -> float:
        """Seconds of this command so far."""
        return self._clock() - self._begun

    @property
    def left(self) -> float | None:
        """Seconds that it should still take, its answer included; None where nobody can tell yet.

        By the limit of time, or by the trials that are left at the pace so far, whichever ends first.
        """
        ends = [self.budget.search.time - self._before - self.spent] if self.budget.search.time is not None else []
        counts = self.counts
        if self._searching is not None and counts.finished and self.stage is None:
            pace = (self._clock() - self._searching) / counts.finished
            ends.append(pace * max(0, self.budget.search.trials - counts.of_run) + counts.answer_seconds)
        elif self.stage is not None and counts.answer_seconds and not ends:
            ends.append(self._answering + counts.answer_seconds - self._clock())
        return max(0.0, min(ends, default=math.nan)) if ends else None

    def on_start(self, base: BaseRecord, space: Space, left_out: Mapping[str, str]) -> None:
        self._searching = self._clock()

    def on_begin(self, origin: str, recipe: Recipe, fidelity: float) -> None:
        self.origin = origin

    def on_progress(self, what: str, done: int, total: int) -> None:
        self.what, self.done, self.total = what, done, total
        if self.stage is None or STAGES.index(self.stage) < STAGES.index(AnswerStage.BUILDING):
            return
        if what.startswith("timing "):
            self.stage = AnswerStage.TIMING
        elif what.startswith("judging on "):
            self.stage = AnswerStage.JUDGING

    def on_trial(self, trial: Trial, counts: Counts) -> None:
        self.counts = counts

    def on_stage(self, stage: AnswerStage) -> None:
        if self.stage is None:
            self._answering = self._clock()
        self.stage, self.origin, self.what, self.done, self.total = stage, "", "", 0, 0
