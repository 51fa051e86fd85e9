"""Promotions: which trial is trained further, and when, within what is left of the budget's trials and time."""

from __future__ import annotations

import math
from collections.abc import Set as AbstractSet

from sousvit.search.archive import Archive
from sousvit.search.budget import Budget
from sousvit.search.fidelity.halving import Halving
from sousvit.search.fidelity.learning_curve import FULL
from sousvit.search.fidelity.underway import Underway
from sousvit.search.trial import Trial

TRIALS_BEFORE_FIRST = 3
#: Share of trials that are full trainings and their variants, however cheap the others are.
LEAST_SHARE = 1 / 16
#: Against division by no time at all.
EPSILON = 1e-9
#: One full training in this many goes to a single technique, after the first.
SINGLES_SHARE = 4


class Promotions:
    """The promotions of one search.

    Args:
        budget: its limits say how much there is to spend.
        archive: what is known.
        policy: ranks what may be promoted.
    """

    def __init__(self, budget: Budget, archive: Archive, policy: Halving) -> None:
        self._budget, self._archive, self._policy = budget, archive, policy

    def next(
        self, seconds: float, time_limit: float | None, pending: Underway, exhausted: bool = False
    ) -> Trial | None:
        """The pending trial of what to train further now, if anything.

        Args:
            seconds: of search time spent.
            time_limit: what there is of it, None without a limit.
            pending: trials on their way.
            exhausted: whether there is nothing else left to do.
        """
        if not self._policy.explores:
            return None
        busy = pending.busy
        risen = self._policy.rise(busy)
        if risen is not None:
            return risen
        chosen = self._in_full(seconds, time_limit, pending, busy, exhausted)
        return None if chosen is None else chosen.promoted(FULL)

    def _in_full(
        self, seconds: float, time_limit: float | None, pending: Underway, busy: AbstractSet[str], exhausted: bool
    ) -> Trial | None:
        """The low-rung result to train in full now."""
        left = math.inf if time_limit is None else time_limit - seconds
        is_late = exhausted or self._policy.promotes(self._spent_share(seconds, time_limit, pending))
        if not is_late and not self._lags(pending):
            return self._last_chance(left, busy)
        single = self._due_single(left, pending, busy)
        if single is not None:
            return single
        has_answer = self._has_answer()
        # What is left of the search may go to near misses; where they fail, the learning curve tells so.
        optimistic = is_late and has_answer
        chosen = self._policy.next(left, busy, optimistic)
        if chosen is None or exhausted:
            return chosen
        # With an answer in hand, a full training that would not give a better one is worse spent than on exploring;
        # but before the first one nobody knows what training brings.
        is_wanted = not self._promoted(pending) or (is_late and not has_answer)
        return chosen if is_wanted or self._policy.is_hopeful(chosen, optimistic) else None

    def _lags(self, pending: Underway) -> bool:
        """Whether full trainings and their variants have had less of the search so far than their share."""
        known = self._policy.standings()
        if known.num_explored < TRIALS_BEFORE_FIRST:
            return False
        of_trials = (known.num_late + pending.num_late) / (len(self._archive) + len(pending))
        of_seconds = known.late_seconds / max(known.seconds, EPSILON)
        return max(of_trials, of_seconds) < 1 - self._policy.explore_share or of_trials < LEAST_SHARE

    def _spent_share(self, seconds: float, time_limit: float | None, pending: Underway) -> float:
        """Share of the trials or the time that is spent; what runs is, too: of a thousand workers it is the most."""
        shares = [(self._archive.own + pending.num_running) / self._budget.search.trials]
        if time_limit is not None:
            shares.append(seconds / max(time_limit, EPSILON))
        return max(shares)

    def _has_answer(self) -> bool:
        return bool(self._archive.front(self._policy.goals))

    def _last_chance(self, left: float, busy: AbstractSet[str]) -> Trial | None:
        """Where there is no answer yet: the best hopeful trial, if after one more there is no time to train it."""
        if math.isinf(left) or self._has_answer():
            return None
        chosen = self._policy.next(left, busy)
        if chosen is None or not self._policy.is_hopeful(chosen):
            return None
        longest = max(sum(trial.seconds.values()) for trial in self._archive)
        return chosen if self._policy.seconds_in_full(chosen) + longest > left else None

    def _due_single(self, left: float, pending: Underway, busy: AbstractSet[str]) -> Trial | None:
        """The single technique to train next, where it is their turn: the best of them is what a hybrid must beat."""
        promoted = self._promoted(pending)
        if SINGLES_SHARE * sum(trial.is_single for trial in promoted) >= len(promoted):
            return None
        chosen = self._policy.next_single(left, busy)
        is_known = bool(self._archive.front_of_singles(self._policy.goals))
        return None if is_known and chosen and not self._policy.is_hopeful(chosen) else chosen

    def _promoted(self, pending: Underway) -> list[Trial]:
        """Full trainings of what was explored, those on their way included."""
        return [*self._policy.standings().promoted, *pending.promoted.values()]
