"""The contract of an objective: one measured quantity with a name, a unit, a direction and a stage.

A plug-in is one small class::

    class Depth(Objective):
        name, unit, direction, stage = "depth", "blocks", "minimize", Stage.STRUCTURE
        summary = "number of transformer blocks"

        def measure(self, subject):
            return Measurement(len(subject.model.blocks))

named in a budget as ``plugins: {objectives: [my_file.py:Depth]}``, or registered as an entry point in the
group ``sousvit.objectives``. ``sousvit.check_objective`` checks one as our tests check ours.

Every objective ``x`` also exists relative to the base: ``x_ratio`` (value / base) and ``x_drop`` (base - value),
in limits and as what to optimise. What differs from target to target exists for each by its name: ``latency@phone``;
without a name it is the first target's.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from sousvit.errors import TrialError, UnknownNameError, UserError
from sousvit.objectives import BUILTIN
from sousvit.registry import Registry

if TYPE_CHECKING:
    from torch import nn

    from sousvit.objectives.memory_probe import Probe
    from sousvit.objectives.tasks.task import Evaluation
    from sousvit.objectives.timing import Timing
    from sousvit.spaces.export.artifact import Artifact
    from sousvit.specs import Task

Direction = Literal["minimize", "maximize"]


class Stage(IntEnum):
    """The earliest moment at which an objective can be measured."""

    STRUCTURE = 0  #: from the PyTorch model's shapes alone
    ARTIFACT = 1  #: from the exported file with untrained weights, in its runtime
    TRAINED = 2  #: needs the final weights


class Subject(Protocol):
    """What an objective may look at. Costly parts are computed on first use and shared."""

    @property
    def model(self) -> nn.Module:
        """The compressed PyTorch model before quantization."""
        ...

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(1, C, H, W)."""
        ...

    @property
    def artifact(self) -> Artifact:
        """The exported model file."""
        ...

    @property
    def timing(self) -> Timing:
        """Latency on the target, interleaved with the base."""
        ...

    @property
    def probe(self) -> Probe:
        """Peak memory and load time on the target, measured in a process of its own."""
        ...

    @property
    def energy_mj(self) -> float:
        """Millijoules of one inference on the target.

        Raises:
            TrialError: the device cannot tell.
        """
        ...

    def on(self, target: str) -> Subject:
        """The same subject on another of the budget's targets: what is timed and probed there, nothing else.

        Raises:
            TrialError: there is no such target.
        """
        ...

    @property
    def evaluation(self) -> Evaluation:
        """Predictions of the artifact in its runtime on the judging split."""
        ...

    @property
    def weight_bits(self) -> float:
        """Average bits of a weight in the artifact: 8 * file bytes / parameters."""
        ...

    @property
    def base(self) -> Subject:
        """The uncompressed base in ONNX Runtime fp32."""
        ...


@dataclass(frozen=True)
class Measurement:
    """A value, with the ends of its 95% interval where there is one."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def is_finite(self) -> bool:
        """Whether the value is an ordinary number."""
        return math.isfinite(self.value)


class Objective(ABC):
    """One measured quantity; ``per_target`` where it differs from target to target, ``task`` where only one task's
    models have it, ``needs_labels`` where it means nothing on images without labels, ``signed`` where it may be
    negative.
    """

    name: ClassVar[str]
    unit: ClassVar[str]
    direction: ClassVar[Direction]
    stage: ClassVar[Stage]
    summary: ClassVar[str]
    per_target: ClassVar[bool] = False
    task: ClassVar[Task | None] = None
    needs_labels: ClassVar[bool] = False
    signed: ClassVar[bool] = False

    @abstractmethod
    def measure(self, subject: Subject) -> Measurement:
        """Measure ``subject``; a figure that cannot be had raises, it is never made up."""


def _check_plugin(found: type, where: str) -> None:
    assert issubclass(found, Objective)
    action = f"correct {where}"
    if found.name.endswith(("_ratio", "_drop")):
        raise UserError("names ending in _ratio and _drop belong to relative forms", repr(found.name), action)
    if found.direction not in ("minimize", "maximize"):
        raise UserError("an objective's direction is minimize or maximize", repr(found.direction), action)
    if not isinstance(found.stage, Stage):
        raise UserError("an objective's stage is a Stage", repr(found.stage), action)
    if not all(isinstance(text, str) and text for text in (found.unit, found.summary)):
        raise UserError("an objective's unit and summary are texts", f"{found.unit!r}, {found.summary!r}", action)


OBJECTIVES: Registry[Objective] = Registry(
    "objective",
    "sousvit.objectives",
    BUILTIN,
    base=Objective,
    declares=("unit", "direction", "stage", "summary"),
    check=_check_plugin,
)


def get_objective(name: str) -> Objective:
    """The objective called ``name``, relative ones and those of a named target included.

    Raises:
        UnknownNameError: nothing has this name.
    """
    plain, at, target = name.partition("@")
    try:
        objective = relative_objective(plain) or OBJECTIVES.get(plain)
    except UnknownNameError:
        names = OBJECTIVES.names()
        forms = [f"{own}{form}" for own in names for form in ("", "_ratio", "_drop")]
        raise UnknownNameError("objective", plain, forms if get_close_matches(plain, forms) else names) from None
    return on_target(objective, target) if at else objective


def objectives() -> list[Objective]:
    """All registered objectives, plug-ins included."""
    return list(OBJECTIVES)


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
        """The ratio to the base, or the drop from it.

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
