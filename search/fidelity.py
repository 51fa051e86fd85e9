"""How much recovery training a trial gets: explore at a low rung, then promote the most promising to all epochs.

A low-rung result never counts as final. What is learned from promotions is which share of the loss at the low
rung is still there after all epochs; candidates whose accuracy would then hold the limits are promoted in order
of preference, and where there is none, the one that would miss the limits least.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sousvit.objectives.objective import Stage, get_objective
from sousvit.search.budget import Limit
from sousvit.search.record import TrialRecord, Value
from sousvit.search.selection import Preference

FULL = 1.0
#: What is lost is taken to fall with this power of the training: a guess, until promotions show better.
LOSS_POWER = 1 / 3
#: Loss at the low rung (of figures around 1) that promotions must have shown to weigh as much as that expectation.
SHOWN = 0.02
#: Width of an interval from all validation images, relative to that of the low rung's quarter.
NARROWER = 0.5


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

    @property
    def _usual_share(self) -> float:
        return self.low**LOSS_POWER

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
        ]
        left = self._loss_left(records)
        waiting.sort(key=lambda trial: self._rank(trial, left), reverse=True)
        return next((trial for trial in waiting if self.seconds(trial, records) <= seconds_left), None)

    def is_hopeful(self, trial: TrialRecord, trials: Iterable[TrialRecord]) -> bool:
        """Whether its full training should make it hold every limit."""
        return self._rank(trial, self._loss_left(list(trials)))[0]

    def expected(self, trial: TrialRecord, trials: Iterable[TrialRecord]) -> TrialRecord:
        """``trial`` as it should come out of its full training, by what promotions of ``trials`` have shown."""
        return trial if trial.fidelity >= FULL else self._after_training(trial, self._loss_left(list(trials)))

    def seconds(self, trial: TrialRecord, records: Sequence[TrialRecord]) -> float:
        """Expected cost of training ``trial`` in full; siblings share recovered weights, so theirs count once."""
        same_model = [record for record in records if record.model_key == trial.model_key]
        rest = sum(trial.seconds.values()) - trial.seconds.get("recover", 0.0) - trial.seconds.get("teacher", 0.0)
        if any(record.fidelity >= FULL for record in same_model):
            return rest
        recover = max(record.seconds.get("recover", 0.0) for record in same_model)
        return recover / trial.fidelity + rest

    def is_accurate(self, trial: TrialRecord) -> bool:
        """Whether it holds the limits that training decides."""
        return not any(
            limit.violation(trial.values.get(limit.name)) > 0 for limit in self.limits if _is_trained(limit.name)
        )

    def _broken_for_good(self, trial: TrialRecord) -> bool:
        """Whether it violates a limit that training does not change."""
        return any(
            limit.violation(trial.values.get(limit.name)) > 0 for limit in self.limits if not _is_trained(limit.name)
        )

    def _loss_left(self, records: Sequence[TrialRecord]) -> dict[str, float]:
        """Per trained objective, the share of the low rung's distance from the base that full training leaves."""
        low = {(trial.recipe_key, trial.seed): trial for trial in records if trial.fidelity < FULL}
        sums: dict[str, list[float]] = {}
        for trial in records:
            before = low.get((trial.recipe_key, trial.seed))
            if trial.fidelity >= FULL and trial.status == "complete" and before is not None:
                for name, value in trial.values.items():
                    if name in before.values and name in self.preference.base and _is_trained(name):
                        reference = self.preference.base[name].value
                        total = sums.setdefault(name, [0.0, 0.0, SHOWN])
                        total[0] += value.value - reference
                        total[1] += before.values[name].value - reference
        return {name: _share(after, before, doubt, self._usual_share) for name, (after, before, doubt) in sums.items()}

    def _after_training(self, trial: TrialRecord, left: dict[str, float]) -> TrialRecord:
        values = dict(trial.values)
        for name, value in trial.values.items():
            if _is_trained(name) and name in self.preference.base:
                change = value.value - self.preference.base[name].value
                is_loss = change < 0 if get_objective(name).direction == "maximize" else change > 0
                if is_loss:  # training more takes none of a gain away
                    values[name] = _moved(value, -change * (1 - left.get(name, self._usual_share)))
        return replace(trial, values=values)

    def _rank(self, trial: TrialRecord, left: dict[str, float]) -> tuple[bool, float, float]:
        expected = self._after_training(trial, left)
        miss = max((limit.violation(expected.values.get(limit.name)) for limit in self.limits), default=0.0)
        feasible = miss <= 0
        return feasible, 0.0 if feasible else -miss, self.preference.score(expected)


def _is_trained(name: str) -> bool:
    return get_objective(name).stage is Stage.TRAINED


def _share(after: float, before: float, doubt: float, usual: float) -> float:
    """What is left of ``before``, near ``usual`` where ``before`` is small against ``doubt`` (mostly noise)."""
    doubt = doubt if before >= 0 else -doubt
    return min(1.0, max(0.0, (after + usual * doubt) / (before + doubt))) if before + doubt else 1.0


def _moved(value: Value, by: float) -> Value:
    """``value`` changed, with the interval that all validation images would give."""
    low, high = (
        None if end is None else value.value + by + (end - value.value) * NARROWER for end in (value.low, value.high)
    )
    return Value(value.value + by, low, high)
