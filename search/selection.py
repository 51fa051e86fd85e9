"""Which recipe is returned: the feasible one with the largest weighted log gain over the base."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from sousvit.objectives.objective import get_objective
from sousvit.search.archive import feasible, violations
from sousvit.search.budget import Limit
from sousvit.search.record import TrialRecord, Value

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
        for name, weight, gain in self._terms:
            value = trial.get(name)
            if math.isnan(value):
                return -math.inf
            total += weight * gain(value)
        return total

    @cached_property
    def _terms(self) -> list[tuple[str, float, Callable[[float], float]]]:
        return [(name, weight, _gain_of(name, self.base.get(name))) for name, weight in self.weights.items()]


def _gain_of(name: str, base: Value | None) -> Callable[[float], float]:
    """Gain by the value of objective ``name``."""
    objective = get_objective(name)
    reference = 1.0 if base is None else base.value
    sign = 1.0 if objective.direction == "maximize" else -1.0
    if name.partition("@")[0].endswith("_drop"):
        return lambda value: sign * value
    if objective.direction == "maximize" and objective.unit == "share":
        base_error = max(1 - reference, ERROR_FLOOR)
        return lambda value: math.log(base_error / max(1 - value, ERROR_FLOOR))
    floored = max(reference, 1e-12)
    return lambda value: sign * math.log(max(value, 1e-12) / floored)


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
