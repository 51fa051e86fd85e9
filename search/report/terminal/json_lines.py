"""Progress as JSON: one object a line on stderr, for programs that follow a search."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sousvit.search.report.terminal.following import STAGES, Following
from sousvit.search.report.terminal.words import short_recipe
from sousvit.search.trial import encode

if TYPE_CHECKING:
    from sousvit.search.budget import Budget
    from sousvit.search.callbacks import AnswerStage, Counts
    from sousvit.search.trial import BaseRecord, Trial
    from sousvit.spaces.space import Space

#: What goes on is written at most this often, in seconds.
PERIOD = 1.0


class JsonLines(Following):
    """One JSON object a line: ``event`` says what, ``at`` when, ``spent`` and ``left`` are seconds.

    Events are ``run``, ``base``, ``trial``, ``progress``, ``stage`` (of the answer), ``message`` and ``answer``.

    Args:
        budget, folder, begun: see :class:`.Following`.
        stream: stderr by default.
    """

    def __init__(self, budget: Budget, folder: Path, begun: float | None = None, stream: TextIO | None = None) -> None:
        super().__init__(budget, folder, begun)
        self._stream, self._written = stream or sys.stderr, 0.0

    def __enter__(self) -> JsonLines:
        limits = {limit.name: limit.condition for limit in self.budget.hard_limits}
        asked = {"limits": limits, "optimize": list(self.budget.optimize), "trials": self.budget.search.trials}
        self._write("run", run=str(self.folder), target=self.budget.where, time=self.budget.search.time, **asked)
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def on_message(self, text: str) -> None:
        self._write("message", text=text)

    def on_start(self, base: BaseRecord, space: Space, left_out: Mapping[str, str]) -> None:
        super().on_start(base, space, left_out)
        self._write("base", values=encode(base.values), combinations=space.size, left_out=dict(left_out))

    def on_progress(self, what: str, done: int, total: int) -> None:
        before = self.stage
        is_due = what != self.what or self._clock() - self._written >= PERIOD
        super().on_progress(what, done, total)
        if self.stage is not None and self.stage is not before:
            self._write_stage(self.stage)
        if is_due:
            self._write("progress", what=what, done=done, of=total)

    def on_trial(self, trial: Trial, counts: Counts) -> None:
        super().on_trial(trial, counts)
        best = None if counts.best is None else {"key": counts.best.key, "recipe": short_recipe(counts.best.recipe)}
        self._write(
            "trial",
            number=counts.of_run,
            of=self.budget.search.trials,
            key=trial.key,
            recipe=trial.recipe,
            fidelity=trial.fidelity,
            status=trial.status,
            message=trial.message,
            origin=trial.origin,
            values=encode(trial.values),
            seconds=trial.seconds,
            front=counts.front,
            best=best,
        )

    def on_stage(self, stage: AnswerStage) -> None:
        super().on_stage(stage)
        self._write_stage(stage)

    def on_end(self, result: Any) -> None:
        answer = result.answer
        limits = {limit.name: limit.verdict for limit in answer.limits}
        recipe = None if answer.chosen is None else answer.chosen.recipe
        self._write("answer", status=answer.status, limits=limits, recipe=recipe)

    def _write_stage(self, stage: AnswerStage) -> None:
        self._write("stage", stage=stage.value, number=STAGES.index(stage) + 1, of=len(STAGES))

    def _write(self, event: str, **content: Any) -> None:
        self._written, left = self._clock(), self.left
        head = {"event": event, "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "spent": round(self.spent, 1)}
        left_ = {} if left is None else {"left": round(left, 1)}
        print(json.dumps({**head, **left_, **content}), file=self._stream, flush=True)
