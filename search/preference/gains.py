"""Gains: how much better than the base a figure is, on one scale for costs and qualities, so that they can be added.

A *cost* (latency, size, energy) gains by its ratio to the base: half of the latency is a gain of 2. A *quality* (what
is a share: accuracy, agreement, mAP) gains by the *slack* that its limit leaves, which is the distance from the base to
the bound: with a share ``s`` of the slack left the gain is ``(1 + s) / 2``. At the base's figure the slack is whole and
the gain 1; at the bound nothing is left and the gain 1/2, so using up the slack weighs what doubling a cost does. For
instance, with a base of 1.0 and ``agreement >= 0.85``::

                    agreement      latency       size         sum of the logs
    int8 alone      0.995: 0.98    1.4x: 1.4     3.9x: 3.9    1.68
    pruned, int8    0.96:  0.87    2.2x: 2.2     6.0x: 6.0    2.44

The second is the better answer: a quarter of the slack is a small price. (Weighed by their errors, 0.5% against 4%, the
first would win whatever the second saves.) What lies beyond has a meaning, too:

* A quality above the base has more than the whole slack left, and gains on; ever less, as a log does.
* Below the bound, where nothing is an answer, the log goes on as the straight line ``s - log 2``.
* Without a limit :data:`UNLIMITED_SLACK` stands for its slack; a bound nearer to the base than :data:`LEAST_SLACK`, at
  it or beyond it, leaves that much, because a split of usual size cannot tell less apart.
* What may be negative has no ratio: it gains by the slack of its limit, or else by its distance from the base in units
  of the base's figure. Every other objective, a user's own included, is a cost; where more is better, the gain is the
  ratio the other way round.

Relative forms gain as the objective that they are of: ``accuracy_drop`` as ``accuracy``, ``size_ratio`` as ``size``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sousvit.objectives.objective import Measurement, Objective, Relative, get_objective
from sousvit.search.limits import Limit

#: A share's slack where no limit sets it: five points.
UNLIMITED_SLACK = 0.05
#: The least slack of a share: one point.
LEAST_SLACK = 0.01
#: Figures below this are this, in logs.
TINY = 1e-12


@dataclass(frozen=True)
class Original:
    """What an objective's name says: ``latency_ratio@phone`` is the form ``ratio`` of ``latency@phone``."""

    name: str
    form: str
    objective: Objective

    @classmethod
    def of(cls, name: str) -> Original:
        """The parts of an objective's ``name``.

        Raises:
            UnknownNameError: no such objective.
        """
        plain, at, target = name.partition("@")
        objective = get_objective(plain)
        if isinstance(objective, Relative):
            return cls(f"{objective.original.name}{at}{target}", objective.form, objective.original)
        return cls(name, "", objective)

    @property
    def is_quality(self) -> bool:
        """Whether it is a share, which says how good a model is and not what it costs."""
        return self.objective.unit == "share"

    @property
    def sign(self) -> float:
        """1 where more of it is better, else -1."""
        return 1.0 if self.objective.direction == "maximize" else -1.0

    def value(self, figure: float, base: float) -> float:
        """The original's value by a ``figure`` of this form."""
        return {"": figure, "ratio": base * figure, "drop": base - figure}[self.form]

    def figure(self, value: float, base: float) -> float:
        """The figure of this form by a ``value`` of the original: the inverse of :meth:`value`."""
        return {"": value, "ratio": value / (base or TINY), "drop": base - value}[self.form]

    def loss(self, figure: float, base: float) -> float:
        """How much worse than the base that is, in the original's unit; below 0 where it is better."""
        return self.sign * (base - self.value(figure, base))


def log_gain(name: str, base: Measurement | None, limits: Iterable[Limit]) -> Callable[[float], float]:
    """The log of the gain by a figure of objective ``name``; 0 at the base, more is better.

    Args:
        base: the figure of its original form on the base; 1 without one.
        limits: the budget's; those on ``name`` in any form set its slack, the tightest counts.
    """
    own = Original.of(name)
    reference = 1.0 if base is None else base.value
    bounds = [(Original.of(limit.name), limit.bound) for limit in limits]
    slack = min((other.loss(bound, reference) for other, bound in bounds if other.name == own.name), default=math.nan)
    if own.is_quality:
        slack = UNLIMITED_SLACK if math.isnan(slack) else max(slack, LEAST_SLACK)
    elif not own.objective.signed and reference > 0:
        return lambda figure: own.sign * math.log(max(own.value(figure, reference), TINY) / reference)
    if slack > 0:
        return lambda figure: _by_slack(1 - own.loss(figure, reference) / slack)
    return lambda figure: -own.loss(figure, reference) / (abs(reference) or 1.0)


def _by_slack(left: float) -> float:
    """The log gain where a share of the slack is ``left``."""
    return (math.log1p(left) if left > 0 else left) - math.log(2)
