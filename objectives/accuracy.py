"""Accuracy: top-1 of the exported artifact in its runtime, on the judging split."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from sousvit.objectives.objective import Direction, Measurement, Objective, Stage, Subject
from sousvit.specs import Task

if TYPE_CHECKING:
    from sousvit.objectives.tasks.classification import TopOneEvaluation
    from sousvit.objectives.tasks.detection import BoxEvaluation


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
        from sousvit.objectives.tasks.classification import interval

        evaluation = cast("TopOneEvaluation", subject.evaluation)
        return Measurement(evaluation.top1, *interval(evaluation))

    def measure_drop(self, subject: Subject) -> Measurement:
        """Base minus subject on the same images, with the paired interval."""
        from sousvit.objectives.tasks.classification import paired_difference

        base, own = (cast("TopOneEvaluation", one.evaluation) for one in (subject.base, subject))
        return Measurement(*paired_difference(base, own))


class Agreement(Objective):
    """The task's figure of merit with the base's predictions as labels, with its interval.

    The share of images whose largest logit is that of the base; of a detector, mAP50 against the base's sure boxes.
    """

    name: ClassVar[str] = "agreement"
    unit: ClassVar[str] = "share"
    direction: ClassVar[Direction] = "maximize"
    stage: ClassVar[Stage] = Stage.TRAINED
    summary: ClassVar[str] = (
        "top-1 agreement of the artifact with the base (mAP50 against a detector's boxes); needs no labels"
    )

    def measure(self, subject: Subject) -> Measurement:
        return Measurement(*subject.evaluation.against(subject.base.evaluation).merit())

    def measure_drop(self, subject: Subject) -> Measurement:
        """One minus the agreement, with the paired interval of base and subject on the same images."""
        base = subject.base.evaluation
        return Measurement(*subject.evaluation.against(base).merit_drop(base.against(base)))


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
