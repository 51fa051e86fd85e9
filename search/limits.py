"""Hard limits: how they are written, and when a measured figure holds one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, Field

from sousvit.errors import UserError
from sousvit.objectives.objective import Measurement, get_objective
from sousvit.text.amounts import amount, amounts

if TYPE_CHECKING:
    pass


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

#: Seconds of the longest duration: ten years, which clocks and waits of every system take.
LONGEST = 10 * 365 * 86400


#: Stored intervals are two-sided at 95%.
_INTERVAL_Z = NormalDist().inv_cdf(0.975)


#: Objectives that are shares between 0 and 1.
QUALITIES = ("accuracy", "map", "map50", "agreement")


def parse_duration(value: object) -> object:
    """Seconds from a number or from text such as ``30m``, ``1h30m``, ``90s``.

    Raises:
        UserError: neither.
    """
    if not isinstance(value, str):
        return value
    parts = amounts(value)
    if not parts or any(unit not in _SECONDS for _, unit in parts):
        raise UserError("a duration is a number with s, m, h or d", repr(value), "write for instance 30m or 1h30m")
    return sum(number * _SECONDS[unit] for number, unit in parts)


Duration = Annotated[float, BeforeValidator(parse_duration), Field(gt=0, le=LONGEST)]


@dataclass(frozen=True)
class Limit:
    """A hard limit: ``value <= bound`` for a minimised objective, ``value >= bound`` for a maximised one.

    ``confidence`` in [0.5, 1) is the one-sided level at which a figure with an interval must hold it.
    """

    name: str
    bound: float
    maximise: bool
    confidence: float = 0.5

    def violation(self, value: Measurement | None) -> float:
        """Signed relative violation, above 0 where broken; what Optuna gets as a constraint value."""
        if value is None or math.isnan(value.value):
            return math.inf
        scale = abs(self.bound) or 1.0
        judged = self.cautious(value)
        return (self.bound - judged if self.maximise else judged - self.bound) / scale

    def cautious(self, value: Measurement) -> float:
        """The figure that is held against the bound: the worse end of its one-sided interval at ``confidence``."""
        end = value.low if self.maximise else value.high
        if end is None:
            return value.value
        return value.value + (end - value.value) * self._share_of_interval

    def may_hold(self, value: Measurement) -> bool:
        """Whether the figure could hold it by the better end of its one-sided interval."""
        end = value.high if self.maximise else value.low
        hoped = value.value if end is None else value.value + (end - value.value) * self._share_of_interval
        return hoped >= self.bound if self.maximise else hoped <= self.bound

    @cached_property
    def _share_of_interval(self) -> float:
        return NormalDist().inv_cdf(self.confidence) / _INTERVAL_Z

    def phrase(self, value: Measurement | None) -> str:
        """For instance ``latency_ratio 0.41, limit <= 0.25``; with the judged end where it is not the figure itself."""
        bound = f"limit {self.condition}"
        if value is None:
            return f"{self.name} was not measured, {bound}"
        judged = self.cautious(value)
        sure = "" if judged == value.value else f" ({judged:.4g} at {self.confidence:.0%} confidence)"
        return f"{self.name} {value.value:.4g}{sure}, {bound}"

    def __str__(self) -> str:
        return f"{self.name} {self.condition}"

    @property
    def condition(self) -> str:
        """Such as ``<= 2 MB``."""
        unit = get_objective(self.name).unit
        plain = unit in ("share", "ratio", "")
        return f"{'>=' if self.maximise else '<='} {self.bound:g}{'' if plain else f' {unit}'}"


def parse_limits(values: Mapping[str, float | str], confidence: float = 0.5) -> tuple[Limit, ...]:
    """Limits from a budget's mapping.

    Raises:
        UnknownNameError: no such objective.
        UserError: no number, or another unit than the objective's.
    """
    return tuple(replace(_limit(name, value), confidence=confidence) for name, value in values.items())


def _limit(name: str, value: float | str) -> Limit:
    objective = get_objective(name)
    number = value
    if isinstance(value, str):
        found = amount(value)
        if found is None:
            raise UserError(
                "a limit is a number, with or without its unit",
                f"{name}: {value!r}",
                f"write for instance 1.5 {objective.unit}",
            )
        number, unit = found
        if unit == "%" and objective.unit in ("share", "ratio"):
            number /= 100
        elif unit and unit != objective.unit.lower():
            raise UserError(
                f"{name} is measured in {objective.unit}", repr(unit), f"give the limit in {objective.unit}"
            )
    if not math.isfinite(float(number)):
        raise UserError("a limit is a finite number", f"{name}: {value!r}", "correct the limit")
    return Limit(name, float(number), objective.direction == "maximize")


def _check_contradictions(limits: tuple[Limit, ...]) -> None:
    """Limits that no model can meet, whatever it is."""
    for limit in limits:
        if not get_objective(limit.name).signed and not limit.maximise and limit.bound <= 0:
            raise UserError("a limit must be reachable", str(limit), "give a bound above 0")
        if limit.name in QUALITIES and not 0 <= limit.bound <= 1:
            raise UserError(f"{limit.name} is a share between 0 and 1", str(limit), "write for instance 0.91 or 91%")
        if limit.name.removesuffix("_drop") in QUALITIES and limit.bound >= 1 and limit.name not in QUALITIES:
            raise UserError(f"{limit.name} is a share below 1", str(limit), "write for instance 0.01 for one point")
