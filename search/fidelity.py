"""How much recovery training a trial gets: explore at a low rung, then promote the most promising to all epochs.

A low-rung result never counts as final. What is learned from promotions is which share of the loss at the low
rung is still there after all epochs; candidates whose accuracy would then hold the limits are promoted in order
of preference, and where there is none, the one that would miss the limits least.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from sousvit.objectives.objective import Stage, get_objective
from sousvit.search.budget import Limit
from sousvit.search.record import TrialRecord, Value
from sousvit.search.selection import Preference
from sousvit.spaces.technique import get_technique

FULL = 1.0
#: Fidelity at which a cut of a prepared base is explored: it is read off, and not trained at all.
READ = 0.0
#: Share of the loss of such a reading that full training should leave: a guess, until promotions show better.
READ_SHARE = 0.8
#: Parts of a trial's time that its own full training does not repeat as they were.
TRAINING_PARTS = frozenset({"recover", "teacher", "prepare"})
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

    def rung(self, trains: bool, prepared: bool = False) -> float:
        """Fidelity of a newly proposed recipe; without training every result is final.

        Args:
            trains: whether the recipe has a step that trains.
            prepared: whether it cuts a prepared base, and tells its accuracy without training.
        """
        if not trains or self.low >= FULL:
            return FULL
        return READ if prepared else self.low

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
        left = {fidelity: self._loss_left(records, fidelity) for fidelity in {trial.fidelity for trial in waiting}}
        waiting.sort(key=lambda trial: self._rank(trial, left[trial.fidelity]), reverse=True)
        return next((trial for trial in waiting if self.seconds(trial, records) <= seconds_left), None)

    def is_hopeful(self, trial: TrialRecord, trials: Iterable[TrialRecord]) -> bool:
        """Whether its full training should make it hold every limit."""
        return self._rank(trial, self._loss_left(list(trials), trial.fidelity))[0]

    def expected(self, trial: TrialRecord, trials: Iterable[TrialRecord]) -> TrialRecord:
        """``trial`` as it should come out of its full training, by what promotions of ``trials`` have shown."""
        if trial.fidelity >= FULL:
            return trial
        return self._after_training(trial, self._loss_left(list(trials), trial.fidelity))

    def seconds(self, trial: TrialRecord, records: Sequence[TrialRecord]) -> float:
        """Expected cost of training ``trial`` in full; siblings share recovered weights, so theirs count once."""
        same_model = [record for record in records if record.model_key == trial.model_key]
        rest = sum(seconds for part, seconds in trial.seconds.items() if part not in TRAINING_PARTS)
        if any(record.fidelity >= FULL for record in same_model):
            return rest
        if trial.fidelity == READ:
            return _work(trial) * _pace(records) + rest
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

    def _loss_left(self, records: Sequence[TrialRecord], fidelity: float) -> dict[str, float]:
        """Per trained objective, the share of the distance from the base at ``fidelity`` that full training leaves."""
        low = {(trial.recipe_key, trial.seed): trial for trial in records if trial.fidelity == fidelity < FULL}
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
        usual = _usual_share(fidelity)
        return {name: _share(after, before, doubt, usual) for name, (after, before, doubt) in sums.items()}

    def _after_training(self, trial: TrialRecord, left: dict[str, float]) -> TrialRecord:
        values = dict(trial.values)
        for name, value in trial.values.items():
            if _is_trained(name) and name in self.preference.base:
                change = value.value - self.preference.base[name].value
                is_loss = change < 0 if get_objective(name).direction == "maximize" else change > 0
                if is_loss:  # training more takes none of a gain away
                    values[name] = _moved(value, -change * (1 - left.get(name, _usual_share(trial.fidelity))))
        return replace(trial, values=values)

    def _rank(self, trial: TrialRecord, left: dict[str, float]) -> tuple[bool, float, float]:
        expected = self._after_training(trial, left)
        miss = max((limit.violation(expected.values.get(limit.name)) for limit in self.limits), default=0.0)
        feasible = miss <= 0
        return feasible, 0.0 if feasible else -miss, self.preference.score(expected)


def _usual_share(fidelity: float) -> float:
    return READ_SHARE if fidelity == READ else fidelity**LOSS_POWER


def _work(trial: TrialRecord) -> float:
    """What its full training computes, in epochs times MACs."""
    epochs = sum(step.get("epochs", 0) for step in trial.recipe["steps"] if get_technique(step["technique"]).recovers)
    return epochs * trial.values["macs"].value if "macs" in trial.values else 0.0


def _pace(records: Iterable[TrialRecord]) -> float:
    """Seconds per unit of work, by the trainings so far; 0 before the first."""
    trained = [record for record in records if record.fidelity > READ and record.seconds.get("recover")]
    paces = [record.seconds["recover"] / (record.fidelity * _work(record)) for record in trained if _work(record) > 0]
    return median(paces) if paces else 0.0


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
