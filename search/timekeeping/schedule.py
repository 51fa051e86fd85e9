"""A schedule: how much of a limit of time is left for the search, and how much is kept for its answer.

For instance, of 60 s loading took 15; confirming the answer should take 5, its table 15, and leaving out its two parts
12: so 13 s are left for trials, and a training of 20 s is not begun.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sousvit.search.results import best
from sousvit.spaces.technique import Role

if TYPE_CHECKING:
    from sousvit.search.archive import Archive
    from sousvit.search.executors.executor import Job
    from sousvit.search.goals import Goals
    from sousvit.search.timekeeping.costs import Costs
    from sousvit.search.trial import Trial
    from sousvit.spaces.recipe import Recipe

#: Share of a search's time that the rows without one technique each may take together.
PARTS_SHARE = 0.25
#: Share of the limit that nothing is planned for.
SPARE = 0.03
#: Share of the limit that must be left for a trial of a new kind that may take longer.
TRIED_SHARE = 0.2
#: A trial that has reached its deadline is given at least so long, in seconds, to be exported and judged.
LEAST_GRACE = 2.0
#: What is foretold may be exceeded by this factor.
OVERRUN = 1.5


@dataclass
class Schedule:
    """The time of one command.

    Args:
        whole: the limit of the run, in seconds.
        end: when it is over, on ``clock``.
        clock: seconds.
        costs: what trials and the answer should take.
        archive: of the run.
        goals: say which trial would be the answer now.
        restart: seconds until a worker has loaded the base.
        with_parts: whether the answer is to have rows without one technique each.
    """

    whole: float
    end: float
    clock: Callable[[], float]
    costs: Costs
    archive: Archive
    goals: Goals
    restart: float = 0.0
    with_parts: bool = True
    _tried: set[str] = field(default_factory=set, init=False)

    def left(self) -> float:
        """Seconds until the command must end."""
        return self.end - self.clock()

    def for_search(self) -> float:
        """Seconds that trials may still take, now."""
        return self.left() - self.kept() - self.foretold_parts()

    def kept(self) -> float:
        """Seconds that the answer cannot do without, and what is planned for nothing."""
        return self.costs.verify() + self.costs.table() + SPARE * self.whole

    def foretold_parts(self) -> float:
        """Seconds that the rows without one technique each should take, of the answer as it would be now."""
        chosen = best(self.archive.front(self.goals), self.goals) if self.with_parts else None
        if chosen is None:
            return 0.0
        count = num_parts(chosen.parsed)
        each = self.costs.row() + self.costs.training(chosen.parsed, chosen.fidelity)
        return min(count * each, PARTS_SHARE * self.whole)

    def fits(self, trial: Trial) -> bool:
        """Whether a pending trial should end in time, or is to be tried."""
        return self.costs.of(trial) <= self.for_search() or self._is_tried(trial)

    def _is_tried(self, trial: Trial) -> bool:
        """Whether a trial may take half of the time that is left, because only a guess says that it takes longer.

        It is the first of its kind then: it shows what others take, and where it does not end nothing else is lost.
        """
        left = self.for_search()
        is_first = bool(self.costs.unseen(trial) - self._tried)
        return is_first and left >= TRIED_SHARE * self.whole and self.costs.of(trial) > left

    def fits_at_all(self, trial: Trial) -> bool:
        """The same, where no time is kept for rows without one technique."""
        return self.costs.of(trial) <= self.left() - self.kept()

    def bounded(self, job: Job, trial: Trial) -> Job:
        """The job with its deadline.

        A training ends by itself there, and may then be exported and judged. Nothing else does: its worker is ended
        early enough for another one to load the base, which the answer needs. What is tried has half of what is left.
        """
        trains, cost, left = trial.parsed.trains, self.costs.of(trial), self.left() - self.kept()
        finish, restart = self.costs.finish(trial.parsed), self.restart
        if self._is_tried(trial):
            self._tried |= self.costs.unseen(trial)
            deadline, grace = self.for_search() / 2 - (finish if trains else restart), 0.0
        else:
            deadline, grace = (left - finish, OVERRUN * finish) if trains else (left - restart, 0.0)
            deadline = max(deadline, OVERRUN * cost)
        return replace(job, timeout=min(job.timeout, max(deadline, 0.0)), grace=max(LEAST_GRACE, grace))

    def may_confirm(self) -> bool:
        """Whether there is time to try one more recipe on the images held back."""
        return self.left() >= self.kept()

    def timing_seconds(self) -> float:
        """Seconds that timing the answer may take when it is confirmed."""
        return max(0.0, (self.left() - self.costs.table() - SPARE * self.whole) / 2)

    def table_seconds(self) -> float:
        """Seconds for the final table."""
        return max(0.0, self.left() - self.costs.writing() - SPARE * self.whole)

    def parts_seconds(self) -> float:
        """Seconds of it for the rows without one technique each: a quarter of the whole, and what is left."""
        return max(0.0, min(PARTS_SHARE * self.whole, self.left() - self.costs.table() - SPARE * self.whole))

    def may_train(self, recipe: Recipe, fidelity: float) -> bool:
        """Whether there is time to train a model for a row of the final table."""
        needed = self.costs.training(recipe, fidelity)
        return needed <= self.left() - self.costs.table() - SPARE * self.whole


def num_parts(recipe: Recipe) -> int:
    """Techniques that the answer can be shown without; 0 where one compresses alone."""
    changing = [step for step in recipe.steps if step.role is not Role.SUPPLY]
    compressing = [step for step in changing if step.role not in (Role.REPAIR, Role.PREPARE)]
    return len(changing) if len(compressing) > 1 else 0
