"""Accuracy: top-1 of the exported artifact in its runtime, on the judging split."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from sousvit.common.specs import Task
from sousvit.objectives.objective import OBJECTIVES, Direction, Measurement, Objective, Stage, Subject

if TYPE_CHECKING:
    from sousvit.objectives.tasks.classification import TopOneEvaluation


class Accuracy(Objective):
    """Share of images whose largest logit is the label's, with its Wilson interval."""

    name: ClassVar[str] = "accuracy"
    unit: ClassVar[str] = "share"
    direction: ClassVar[Direction] = "maximize"
    stage: ClassVar[Stage] = Stage.TRAINED
    summary: ClassVar[str] = "top-1 of the artifact in its runtime"
    task: ClassVar[Task | None] = "classification"
    needs_labels: ClassVar[bool] = True

    def measure(self, subject: Subject) -> Measurement:
        """See :class:`Objective`."""
        from sousvit.objectives.tasks.classification import interval

        evaluation = cast("TopOneEvaluation", subject.evaluation)
        return Measurement(evaluation.top1, *interval(evaluation))

    def measure_drop(self, subject: Subject) -> Measurement:
        """Base minus subject on the same images, with the paired interval."""
        from sousvit.objectives.tasks.classification import paired_difference

        base, own = (cast("TopOneEvaluation", one.evaluation) for one in (subject.base, subject))
        return Measurement(*paired_difference(base, own))


OBJECTIVES.add(Accuracy.name, Accuracy())
