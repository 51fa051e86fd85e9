"""Size on disk of what is shipped."""

from __future__ import annotations

from typing import ClassVar

from sousvit.objectives.objective import OBJECTIVES, Direction, Measurement, Objective, Stage, Subject


class Size(Objective):
    """Bytes of the artifact's files in megabytes of 10^6 bytes."""

    name: ClassVar[str] = "size"
    unit: ClassVar[str] = "MB"
    direction: ClassVar[Direction] = "minimize"
    stage: ClassVar[Stage] = Stage.ARTIFACT
    summary: ClassVar[str] = "size of the artifact's files"

    def measure(self, subject: Subject) -> Measurement:
        """See :class:`Objective`."""
        return Measurement(subject.artifact.size_bytes / 1e6)


OBJECTIVES.add(Size.name, Size())
