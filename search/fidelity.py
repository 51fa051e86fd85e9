"""How much recovery training a trial gets: explore at a low rung, then promote the most promising to all epochs.

A low-rung result never counts as final. What is learned from promotions is how much accuracy the remaining
epochs bring; candidates whose accuracy would then hold the limits are promoted in order of preference, and
before any such estimate exists, the one that misses the limits least.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from sousvit.objectives.objective import Stage, get_objective
from sousvit.search.budget import Limit
from sousvit.search.record import TrialRecord, Value
from sousvit.search.selection import Preference

FULL = 1.0


@dataclass(frozen=True)
class TwoRungs:
    """Explore at ``low`` fidelity for ``explore_share`` of the budget, then promote.

    Args:
        low: fidelity of exploring trials, in (0, 1]; 1 means no promotions.
        explore_share: share of trials and of time, in (0, 1].
        limits: the hard limits.
        preference: the budget's order among feasible recipes.
    """

    low: float
    explore_share: float
    limits: Sequence[Limit]
    preference: Preference

    def rung(self, trains: bool) -> float:
        """Fidelity of a newly proposed recipe; without training every result is final."""
        return self.low if trains else FULL

    def promotes(self, spent_share: float) -> bool:
        """Whether it is time to promote."""
        return self.low < FULL and spent_share >= self.explore_share

    def next(self, trials: Iterable[TrialRecord], seconds_left: float) -> TrialRecord | None:
        """The low-rung trial to train in full next, or None when none is worth it or fits the time left."""
        records = list(trials)
        done = {(trial.recipe_key, trial.seed) for trial in records if trial.fidelity >= FULL}
        waiting = [
            trial
            for trial in records
            if trial.status == "complete"
            and trial.fidelity < FULL
            and (trial.recipe_key, trial.seed) not in done
            and not self._broken_for_good(trial)
            and self.seconds(trial, records) <= seconds_left
        ]
        gains = self._gains(records)
        return max(waiting, key=lambda trial: self._rank(trial, gains), default=None)

    def seconds(self, trial: TrialRecord, records: Sequence[TrialRecord]) -> float:
        """Expected cost of training ``trial`` in full; siblings share recovered weights, so theirs count once."""
        same_model = [record for record in records if record.model_key == trial.model_key]
        rest = sum(trial.seconds.values()) - trial.seconds.get("recover", 0.0)
        if any(record.fidelity >= FULL for record in same_model):
            return rest
        recover = max(record.seconds.get("recover", 0.0) for record in same_model)
        return recover / trial.fidelity + rest

    def _broken_for_good(self, trial: TrialRecord) -> bool:
        """Whether it violates a limit that training does not change."""
        return any(
            limit.violation(trial.get(limit.name)) > 0
            for limit in self.limits
            if get_objective(limit.name).stage is not Stage.TRAINED
        )

    def _gains(self, records: Sequence[TrialRecord]) -> dict[str, float]:
        """Median change from low to full, per trained objective, over the promotions so far."""
        low = {(trial.recipe_key, trial.seed): trial for trial in records if trial.fidelity < FULL}
        changes: dict[str, list[float]] = {}
        for trial in records:
            before = low.get((trial.recipe_key, trial.seed))
            if trial.fidelity >= FULL and trial.status == "complete" and before is not None:
                for name, value in trial.values.items():
                    if name in before.values and get_objective(name).stage is Stage.TRAINED:
                        changes.setdefault(name, []).append(value.value - before.values[name].value)
        return {name: median(found) for name, found in changes.items()}

    def _rank(self, trial: TrialRecord, gains: dict[str, float]) -> tuple[bool, float, float]:
        values = {name: Value(value.value + gains.get(name, 0.0)) for name, value in trial.values.items()}
        expected = replace(trial, values=values)
        miss = max((limit.violation(expected.get(limit.name)) for limit in self.limits), default=0.0)
        feasible = miss <= 0
        return feasible, 0.0 if feasible else -miss, self.preference.score(expected)
