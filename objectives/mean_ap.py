"""Mean average precision of a detector's artifact in its runtime, on the judging split."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from sousvit.common.specs import Task
from sousvit.objectives.objective import OBJECTIVES, Direction, Measurement, Objective, Stage, Subject

if TYPE_CHECKING:
    from sousvit.objectives.tasks.detection import BoxEvaluation


class MeanAp(Objective):
    """COCO's average precision over classes and IoU thresholds 0.5 to 0.95, with its bootstrap interval."""

    name: ClassVar[str] = "map"
    unit: ClassVar[str] = "share"
    direction: ClassVar[Direction] = "maximize"
    stage: ClassVar[Stage] = Stage.TRAINED
    summary: ClassVar[str] = "mAP (IoU 0.5 to 0.95) of the detector's artifact in its runtime"
    task: ClassVar[Task | None] = "detection"
    needs_labels: ClassVar[bool] = True

    def measure(self, subject: Subject) -> Measurement:
        """See :class:`Objective`."""
        evaluation = cast("BoxEvaluation", subject.evaluation)
        return Measurement(evaluation.precision.whole[self.name], *evaluation.interval(self.name))

    def measure_drop(self, subject: Subject) -> Measurement:
        """Base minus subject on the same images, with the paired interval."""
        from sousvit.objectives.tasks.detection import paired_drop

        base, own = (cast("BoxEvaluation", one.evaluation) for one in (subject.base, subject))
        return Measurement(*paired_drop(base, own, self.name))


class MeanAp50(MeanAp):
    """The same at an IoU of 0.5."""

    name: ClassVar[str] = "map50"
    summary: ClassVar[str] = "mAP at IoU 0.5 of the detector's artifact in its runtime"


OBJECTIVES.add(MeanAp.name, MeanAp())
OBJECTIVES.add(MeanAp50.name, MeanAp50())
