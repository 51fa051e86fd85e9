"""Every objective relative to the base: ``x_ratio`` is value / base, ``x_drop`` is base - value.

A ratio keeps the direction of the objective; a drop turns it round (a small accuracy drop is good, a large
latency drop is good). An objective that measures a relative form better than by two separate measurements
defines ``measure_ratio(subject)`` or ``measure_drop(subject)``: latency its interleaved ratio, accuracy its
paired difference. What differs from target to target also exists on a named one: ``latency_ratio@phone``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

from sousvit.common.errors import TrialError, UserError
from sousvit.objectives.objective import OBJECTIVES, Measurement, Objective, Subject

Form = Literal["ratio", "drop"]


class Relative(Objective):
    """One relative form of ``original``."""

    def __init__(self, original: Objective, form: Form) -> None:
        self.original, self.form = original, form
        self.name = f"{original.name}_{form}"  # type: ignore[misc]
        self.stage, self.per_target = original.stage, original.per_target  # type: ignore[misc]
        self.task = original.task  # type: ignore[misc]
        self.needs_labels = original.needs_labels  # type: ignore[misc]
        self.signed = original.signed or form == "drop"  # type: ignore[misc]
        if form == "ratio":
            self.unit, self.direction = "ratio", original.direction  # type: ignore[misc]
            self.summary = f"{original.name} / that of the base"  # type: ignore[misc]
        else:
            self.unit = original.unit  # type: ignore[misc]
            self.direction = "minimize" if original.direction == "maximize" else "maximize"  # type: ignore[misc]
            self.summary = f"{original.name} of the base - that of the candidate"  # type: ignore[misc]

    def measure(self, subject: Subject) -> Measurement:
        """See :class:`Objective`.

        Raises:
            TrialError: a ratio to a base of zero.
        """
        own: Callable[[Subject], Measurement] | None = getattr(self.original, f"measure_{self.form}", None)
        if own is not None:
            return own(subject)
        value, base = self.original.measure(subject).value, self.original.measure(subject.base).value
        if self.form == "drop":
            return Measurement(base - value)
        if base == 0:
            raise TrialError(f"{self.name}: the base's {self.original.name} is 0")
        return Measurement(value / base)


def relative_objective(name: str) -> Objective | None:
    """The relative form called ``name``, or None if it is registered itself or names no objective's form."""
    original, _, form = name.rpartition("_")
    if form not in ("ratio", "drop") or name in OBJECTIVES or original not in OBJECTIVES:
        return None
    return Relative(OBJECTIVES.get(original), form)  # type: ignore[arg-type]


class OnTarget(Objective):
    """``original`` on the target called ``target``."""

    per_target: ClassVar[bool] = True

    def __init__(self, original: Objective, target: str) -> None:
        self.original, self.target = original, target
        self.name = f"{original.name}@{target}"  # type: ignore[misc]
        self.unit, self.direction, self.stage = original.unit, original.direction, original.stage  # type: ignore[misc]
        self.task, self.signed = original.task, original.signed  # type: ignore[misc]
        self.summary = f"{original.summary}: {target}"  # type: ignore[misc]

    def measure(self, subject: Subject) -> Measurement:
        """See :class:`Objective`."""
        return self.original.measure(subject.on(self.target))


def on_target(original: Objective, target: str) -> OnTarget:
    """``original`` on a named target.

    Raises:
        UserError: no target is named, or the figure is the same on all.
    """
    if not target:
        raise UserError("a target stands behind the @", f"{original.name}@", "write for instance latency@phone")
    if not original.per_target:
        raise UserError("only what differs from target to target takes an @", f"{original.name}@{target}",
                        f"write {original.name}")  # fmt: skip
    return OnTarget(original, target)
