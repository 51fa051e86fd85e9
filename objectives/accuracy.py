"""Accuracy: top-1 of the exported artifact in its runtime, on the judging split."""

from __future__ import annotations

from typing import ClassVar

from sousvit.objectives.objective import OBJECTIVES, Direction, Measurement, Objective, Stage, Subject


class Accuracy(Objective):
    """Share of images whose largest logit is the label's, with its Wilson interval."""

    name: ClassVar[str] = "accuracy"
    unit: ClassVar[str] = "share"
    direction: ClassVar[Direction] = "maximize"
    stage: ClassVar[Stage] = Stage.TRAINED
    summary: ClassVar[str] = "top-1 of the artifact in its runtime"
    needs_labels: ClassVar[bool] = True

    def measure(self, subject: Subject) -> Measurement:
        """See :class:`Objective`."""
        from sousvit.objectives.tasks.classification import interval

        evaluation = subject.evaluation
        return Measurement(evaluation.top1, *interval(evaluation))

    def measure_drop(self, subject: Subject) -> Measurement:
        """Base minus subject on the same images, with the paired interval."""
        from sousvit.objectives.tasks.classification import paired_difference

        return Measurement(*paired_difference(subject.base.evaluation, subject.evaluation))


OBJECTIVES.add(Accuracy.name, Accuracy())
