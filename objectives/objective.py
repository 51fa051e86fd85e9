"""The contract of an objective: one measured quantity with a name, a unit, a direction and a stage.

A plug-in is one small class::

    class Depth(Objective):
        name, unit, direction, stage = "depth", "blocks", "minimize", Stage.STRUCTURE
        summary = "number of transformer blocks"

        def measure(self, subject):
            return Measurement(len(subject.model.blocks))

named in a budget as ``plugins: {objectives: [my_file.py:Depth]}``, or registered as an entry point in the
group ``sousvit.objectives``. ``sousvit.objectives.conformance`` checks one as our tests check ours.

Every objective ``x`` also exists relative to the base: ``x_ratio`` (value / base) and ``x_drop`` (base - value),
in limits and as what to optimise. What differs from target to target exists for each by its name: ``latency@phone``;
without a name it is the first target's.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from sousvit.common.errors import UserError
from sousvit.common.registry import Registry

if TYPE_CHECKING:
    from torch import nn

    from sousvit.common.specs import Task
    from sousvit.objectives.memory_probe import Probe
    from sousvit.objectives.tasks.task import Evaluation
    from sousvit.objectives.timing import Timing
    from sousvit.spaces.artifact import Artifact

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


def _check_installed(found: Objective, name: str) -> None:
    from sousvit.objectives.plugins import check_class

    check_class(type(found), f"the plug-in {name!r}")
    if found.name != name:
        raise UserError("an entry point has its objective's name", f"{name!r} for {found.name!r}", "rename one of them")


OBJECTIVES: Registry[Objective] = Registry("objective", "sousvit.objectives", _check_installed)


def get_objective(name: str) -> Objective:
    """The objective called ``name``, relative ones and those of a named target included.

    Raises:
        UnknownNameError: nothing has this name.
    """
    import sousvit.objectives.builtin  # noqa: F401 - registers ours
    from sousvit.objectives.relative import on_target, relative_objective

    plain, at, target = name.partition("@")
    objective = relative_objective(plain) or OBJECTIVES.get(plain)
    return on_target(objective, target) if at else objective


def objectives() -> list[Objective]:
    """All registered objectives, plug-ins included."""
    import sousvit.objectives.builtin  # noqa: F401 - registers ours

    return list(OBJECTIVES)
