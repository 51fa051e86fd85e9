"""Which recipe is returned: the feasible one with the largest weighted log gain over the base."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sousvit.objectives.objective import get_objective
from sousvit.search.archive import feasible, violations
from sousvit.search.budget import Limit
from sousvit.search.record import TrialRecord, Value

#: Steps that repair; a recipe with one other technique is still a single technique. Named here, not looked up: an
#: answer from the archive takes under a second because it imports no technique, hence no torch.
REPAIRS = frozenset({"distill", "distill_token", "elastic", "synthesize"})

#: Errors below this are one: a split cannot tell them apart.
ERROR_FLOOR = 2e-3


@dataclass(frozen=True)
class Preference:
    """Orders recipes by what the budget optimises.

    The score is ``sum_i w_i log(gain_i)``: ``base / value`` for what is minimised, ``value / base`` for what
    is maximised; for shares such as accuracy the ratio of the errors ``(1 - base) / (1 - value)``, because near 1
    only the error tells recipes apart. 0 is the base, more is better. One objective: simply its order.
    """

    weights: Mapping[str, float]
    base: Mapping[str, Value]

    def score(self, trial: TrialRecord) -> float:
        """The weighted log gain; minus infinity where an objective is missing."""
        total = 0.0
        for name, weight in self.weights.items():
            value = trial.get(name)
            if math.isnan(value):
                return -math.inf
            total += weight * self._gain(name, value)
        return total

    def _gain(self, name: str, value: float) -> float:
        objective = get_objective(name)
        reference = self.base[name].value if name in self.base else 1.0
        if name.partition("@")[0].endswith("_drop"):
            return -value if objective.direction == "minimize" else value
        if objective.direction == "maximize" and objective.unit == "share":
            return math.log(max(1 - reference, ERROR_FLOOR) / max(1 - value, ERROR_FLOOR))
        ratio = max(value, 1e-12) / max(reference, 1e-12)
        return math.log(ratio) if objective.direction == "maximize" else -math.log(ratio)


def best(trials: Iterable[TrialRecord], limits: Sequence[Limit], preference: Preference) -> TrialRecord | None:
    """The feasible trial with the highest score, or None."""
    return max(feasible(trials, limits), key=preference.score, default=None)


def nearest_miss(trials: Iterable[TrialRecord], limits: Sequence[Limit], preference: Preference) -> TrialRecord | None:
    """The trial whose worst violation is smallest: among final ones, else low-rung ones, else gated ones.

    A gated trial is compared by the limits that were measured before it ended.
    """

    def distance(trial: TrialRecord) -> tuple[float, int, float]:
        broken = violations(trial, limits)
        unknown = [name for name, by in broken.items() if math.isinf(by)]
        worst = max((by for name, by in broken.items() if name not in unknown), default=0.0)
        return worst if len(unknown) < len(limits) else math.inf, len(unknown), -preference.score(trial)

    pool = list(trials)
    groups = (
        [trial for trial in pool if trial.is_final],
        [trial for trial in pool if trial.status == "complete"],
        [trial for trial in pool if trial.status == "gated"],
    )
    return min(next((group for group in groups if group), []), key=distance, default=None)


def is_single(techniques: Iterable[str]) -> bool:
    """Whether a recipe is one compression technique (with or without recovery) and nothing else."""
    return len([name for name in techniques if name not in REPAIRS]) == 1


def is_single_trial(trial: TrialRecord) -> bool:
    """Whether its recipe is one."""
    return is_single(trial.techniques)


def best_single(trials: Iterable[TrialRecord], limits: Sequence[Limit], preference: Preference) -> TrialRecord | None:
    """The best single technique; where none holds the limits, the one that misses them least."""
    singles = list(filter(is_single_trial, trials))
    return best(singles, limits, preference) or nearest_miss(singles, limits, preference)
