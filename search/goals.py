"""Goals: the hard limits of a search, what it optimises in which direction and how much, and the base it starts from.

For instance "at most one point of accuracy lost, half of the latency; as small and as fast as possible"::

    goals = Goals(
        limits=parse_limits({"accuracy_drop": 0.01, "latency_ratio": 0.5}),
        weights={"latency": 1.0, "size": 1.0},
        base={"latency": Measurement(5.6), "size": Measurement(10.8)},
    )
    goals.holds(values)       # whether every limit was measured and holds
    goals.violations(values)  # by how much which limits are violated
    goals.score(values)       # what the budget prefers among those that hold

``values`` are figures by objective name throughout, as a trial has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from sousvit.objectives.objective import Direction, Measurement, get_objective
from sousvit.search.limits import Limit
from sousvit.search.preference.gains import Original, log_gain

#: Figures by objective name.
Values = Mapping[str, Measurement]


class Goals:
    """What a result is held against.

    Args:
        limits: all at once, all hard.
        weights: what is optimised, with its weight in the choice among results that hold the limits.
        base: the base's figures, which gains are counted from; an objective without one is compared with 1.

    Attributes:
        directions: per optimised objective ``minimize`` or ``maximize``, in the budget's order.
    """

    def __init__(self, limits: Iterable[Limit] = (), weights: Mapping[str, float] | None = None,
                 base: Values | None = None) -> None:  # fmt: skip
        self.limits, self.weights, self.base = tuple(limits), dict(weights or {}), dict(base or {})
        self.directions: dict[str, Direction] = {name: get_objective(name).direction for name in self.weights}
        self._gains: dict[str, Callable[[float], float]] = {}
        for name in self.weights:
            self._gains[name] = log_gain(name, self.base.get(Original.of(name).name), self.limits)

    def only(self, wanted: Callable[[str], bool]) -> Goals:
        """The same goals with the limits on ``wanted`` objectives alone."""
        return Goals((limit for limit in self.limits if wanted(limit.name)), self.weights, self.base)

    def at_confidence(self, confidence: float) -> Goals:
        """The same goals with limits that a figure must hold at another one-sided level; 0.5 is the figure itself."""
        return Goals((replace(limit, confidence=confidence) for limit in self.limits), self.weights, self.base)

    def at_least(self, confidence: float) -> Goals:
        """The same goals with limits that must hold at this one-sided level, or at their own where that is higher."""
        surer = (replace(limit, confidence=max(confidence, limit.confidence)) for limit in self.limits)
        return Goals(surer, self.weights, self.base)

    # Limits

    def holds(self, values: Values) -> bool:
        """Whether every limit was measured and holds."""
        return all(limit.violation(values.get(limit.name)) <= 0 for limit in self.limits)

    def may_hold(self, values: Values) -> bool:
        """Whether every limit was measured, and holds at the better end of its figure's interval."""
        return all(limit.name in values and limit.may_hold(values[limit.name]) for limit in self.limits)

    def violations(self, values: Values, measured_only: bool = False) -> dict[str, float]:
        """The relative violation of each limit that does not hold; infinite where its objective was not measured.

        Args:
            measured_only: leave out limits whose objective was not measured: nothing is known of them yet.
        """
        found = {
            limit.name: limit.violation(values.get(limit.name))
            for limit in self.limits
            if limit.name in values or not measured_only
        }
        return {name: violation for name, violation in found.items() if violation > 0}

    def miss(self, values: Values) -> float:
        """The worst relative violation; at most 0 where all limits hold."""
        return max((limit.violation(values.get(limit.name)) for limit in self.limits), default=0.0)

    def explain(self, values: Values, measured_only: bool = False) -> list[str]:
        """One phrase a violated limit, such as ``latency_ratio 0.41, limit <= 0.25``; see :meth:`violations`."""
        broken = self.violations(values, measured_only)
        return [limit.phrase(values.get(limit.name)) for limit in self.limits if limit.name in broken]

    # What is optimised

    def point(self, values: Values) -> tuple[float, ...]:
        """Figures of what is optimised, less is better; NaN where one was not measured."""
        return tuple(
            (-1.0 if direction == "maximize" else 1.0) * (values[name].value if name in values else math.nan)
            for name, direction in self.directions.items()
        )

    def figures(self, values: Values) -> dict[str, float]:
        """The figure of each objective that is optimised, NaN where one was not measured."""
        return {name: values[name].value if name in values else math.nan for name in self.directions}

    def dominates(self, figures: Mapping[str, float], values: Values) -> bool:
        """Whether ``figures`` are surely better than ``values`` in everything that is optimised.

        Surely: better than the better end of an interval. What has not been measured yet settles nothing.
        """
        return all(
            name in values and _is_better(figures[name], values[name], direction)
            for name, direction in self.directions.items()
        )

    def gains(self, values: Values) -> dict[str, float]:
        """The log gain over the base in everything that is optimised, see :mod:`.preference.gains`.

        0 is the base, more is better, NaN was not measured.
        """
        figures = self.figures(values)
        return {
            name: math.nan if math.isnan(figures[name]) else gain(figures[name]) for name, gain in self._gains.items()
        }

    def score(self, values: Values) -> float:
        """The weighted sum of the log gains: what the budget prefers; minus infinity where a figure is missing.

        Costs gain by their ratio to the base, qualities by the share of the slack that their limit leaves, see
        :mod:`.preference.gains`. With one objective it is simply its order.
        """
        total = sum(self.weights[name] * gain for name, gain in self.gains(values).items())
        return -math.inf if math.isnan(total) else total


def _is_better(figure: float, value: Measurement, direction: Direction) -> bool:
    if direction == "maximize":
        return figure > (value.value if value.high is None else value.high)
    return figure < (value.value if value.low is None else value.low)
