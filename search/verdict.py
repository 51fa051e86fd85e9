"""The verdict on a recipe: which limits it was shown to hold, by which figures, on which images.

A limit *holds* where its figure does at the budget's confidence, measured after the search and on images that no trial
was judged on. It is *not shown* where the figure lies within the bound, but not so surely, or comes from the search
itself; *broken* where the figure lies beyond the bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from sousvit.objectives.objective import Measurement, Stage, get_objective
from sousvit.search.limits import Limit

Status = Literal["holds", "not shown on the test split", "infeasible"]
Shown = Literal["holds", "not shown", "broken"]

#: Validation images that no trial was judged on.
HELD_BACK = "images held back"


@dataclass(frozen=True)
class JudgedLimit:
    """One limit and what was found of it.

    Attributes:
        bound: ``<= 0.5`` for instance.
        value, low, high: the figure with its 95% interval; ``value`` is None where it was not measured.
        confidence: one-sided level at which it must hold.
        images: what it was judged on; "" where a figure hangs on no images.
        verdict: see the module.
    """

    name: str
    bound: str
    value: float | None
    low: float | None
    high: float | None
    confidence: float
    images: str
    verdict: Shown

    @property
    def holds(self) -> bool:
        """Whether it was shown to hold."""
        return self.verdict == "holds"

    def __str__(self) -> str:
        """``accuracy_drop 0.0184 [0.0119-0.025] on the test split, limit <= 0.025 at 90% confidence: holds``."""
        figure = "was not measured" if self.value is None else f"{self.value:.4g}"
        if self.low is not None and self.high is not None:
            figure += f" [{self.low:.3g}-{self.high:.3g}]"
        where = f" on {self.images}" if self.images else ""
        sure = f" at {self.confidence:.4g} confidence" if self.low is not None and self.confidence > 0.5 else ""
        return f"{self.name} {figure}{where}, limit {self.bound}{sure}: {self.verdict}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "holds": self.holds}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> JudgedLimit:
        """The inverse of :meth:`to_dict`."""
        return cls(**{name: value for name, value in plain.items() if name != "holds"})


def judge_limits(
    limits: Iterable[Limit], figures: Mapping[str, Measurement], images: str, unseen: bool, measured_again: bool
) -> tuple[JudgedLimit, ...]:
    """Every limit held against its figure.

    Args:
        images: what the figures of trained models were judged on.
        unseen: whether no trial was judged on those.
        measured_again: whether the figures were measured after the search; else nothing is shown by them.
    """
    found = []
    for limit in limits:
        value, of_images = figures.get(limit.name), hangs_on_images(limit.name)
        shown = measured_again and (unseen or not of_images)
        found.append(_judged(limit, value, images if of_images else "", shown))
    return tuple(found)


def _judged(limit: Limit, found: Measurement | None, images: str, shown: bool) -> JudgedLimit:
    known = None if found is None or math.isnan(found.value) else found
    verdict: Shown = "broken"
    if known is None or replace(limit, confidence=0.5).violation(known) <= 0:
        verdict = "holds" if shown and limit.violation(known) <= 0 else "not shown"
    value, low, high = (None, None, None) if known is None else (known.value, known.low, known.high)
    return JudgedLimit(limit.name, limit.condition, value, low, high, limit.confidence, images, verdict)


def hangs_on_images(name: str) -> bool:
    """Whether an objective's figure comes from the final weights' predictions."""
    return get_objective(name).stage is Stage.TRAINED


def status_of(feasible: bool, limits: Iterable[JudgedLimit], measured_again: bool) -> Status:
    """A verdict in words.

    Args:
        feasible: whether the search found a recipe that holds every limit.
        measured_again: whether the recipe's figures were measured after the search.
    """
    if not feasible:
        return "infeasible"
    return "holds" if measured_again and all(limit.holds for limit in limits) else "not shown on the test split"
