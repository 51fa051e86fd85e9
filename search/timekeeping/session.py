"""A session: one command's work on a run, with what it takes and what is left of its time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sousvit.search.judging.gate import seconds_saved
from sousvit.search.timekeeping.costs import Costs
from sousvit.search.timekeeping.schedule import Schedule
from sousvit.search.timekeeping.timing import timing_plan
from sousvit.spaces.shape import read_shape

if TYPE_CHECKING:
    from sousvit.search.archive import Archive
    from sousvit.search.budget import Budget
    from sousvit.search.callbacks import Callback
    from sousvit.search.executors.executor import Executor


class Session:
    """One command's work on a run: what it takes, and what it is told to.

    Args:
        begun: when its time began, on ``clock``.
    """

    def __init__(
        self, archive: Archive, executor: Executor, callback: Callback, clock: Callable[[], float], begun: float
    ) -> None:
        self.callback, self.clock, self.begun = callback, clock, begun
        self._archive, self._executor = archive, executor
        #: Seconds until the base was loaded and measured.
        self.loading = 0.0
        self.seconds_before, self._core_before = archive.spent_seconds, archive.core_seconds
        self._noted, self._cores_noted = begun, 0.0

    def note(self, **further: Any) -> None:
        """Write what was spent since the last note to the log."""
        now, cores = self.clock(), self._executor.core_seconds()
        seconds, core_seconds = now - self._noted, cores - self._cores_noted
        self._archive.append("session", seconds=seconds, core_seconds=core_seconds, **further)
        self._noted, self._cores_noted = now, cores

    def schedule(self, budget: Budget, seconds: float | None = None) -> Schedule | None:
        """What is left of the budget's time, and what the answer needs of it; None without a limit.

        Args:
            seconds: what this command has, where that is not what the run's budget has left.
        """
        whole, base = budget.search.time if seconds is None else seconds, self._archive.base
        if whole is None or math.isinf(whole):
            return None
        assert base is not None
        costs, goals = self.costs(budget), budget.goals(base.values)
        end = self.begun + whole - (self.seconds_before if seconds is None else 0.0)
        return Schedule(whole, end, self.clock, costs, self._archive, goals, self.loading, budget.search.leave_one_out)

    def costs(self, budget: Budget) -> Costs:
        """What trials and the answer should take, once the base is measured."""
        base = self._archive.base
        assert base is not None
        careful = timing_plan(budget.search).careful()
        return Costs(self._archive, base, read_shape(base.shape), careful, len(budget.targets))

    def cost(self, searched: float) -> dict[str, float]:
        """What the run has taken, for its answer, which began when it had ``searched``."""
        archive, now = self._archive, self.clock()
        return {
            "wall_seconds": self.seconds_before + now - self.begun,
            "answer_seconds": now - searched,
            "core_hours": (self._core_before + self._executor.core_seconds()) / 3600,
            "trials": float(archive.own),
            "gated": float(sum(trial.status == "gated" for trial in archive)),
            "prepare_seconds": sum(trial.seconds.get("prepare", 0.0) for trial in archive if not trial.source),
            "gates_saved_seconds": seconds_saved(archive),
        }
