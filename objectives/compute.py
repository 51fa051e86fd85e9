"""What follows from the PyTorch model alone: parameters and multiply-accumulates."""

from __future__ import annotations

from typing import ClassVar

from sousvit.objectives.objective import OBJECTIVES, Direction, Measurement, Objective, Stage, Subject


class Params(Objective):
    """Parameters in millions."""

    name: ClassVar[str] = "params"
    unit: ClassVar[str] = "M"
    direction: ClassVar[Direction] = "minimize"
    stage: ClassVar[Stage] = Stage.STRUCTURE
    summary: ClassVar[str] = "parameters"

    def measure(self, subject: Subject) -> Measurement:
        """See :class:`Objective`."""
        return Measurement(sum(parameter.numel() for parameter in subject.model.parameters()) / 1e6)


class Macs(Objective):
    """Multiply-accumulates of one image in millions: matrix products and convolutions."""

    name: ClassVar[str] = "macs"
    unit: ClassVar[str] = "M"
    direction: ClassVar[Direction] = "minimize"
    stage: ClassVar[Stage] = Stage.STRUCTURE
    summary: ClassVar[str] = "multiply-accumulates of one image"

    def measure(self, subject: Subject) -> Measurement:
        """See :class:`Objective`."""
        from sousvit.spaces.module_shape import macs_of

        return Measurement(macs_of(subject.model, subject.input_shape[1:]) / 1e6)


OBJECTIVES.add(Params.name, Params())
OBJECTIVES.add(Macs.name, Macs())
