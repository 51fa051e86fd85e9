"""Agreement: how far the artifact predicts what the base predicts; what there is to say without labels."""

from __future__ import annotations

from typing import ClassVar

from sousvit.objectives.objective import OBJECTIVES, Direction, Measurement, Objective, Stage, Subject


class Agreement(Objective):
    """The task's figure of merit with the base's predictions in the place of labels, with its interval.

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
        """See :class:`Objective`."""
        return Measurement(*subject.evaluation.against(subject.base.evaluation).merit())

    def measure_drop(self, subject: Subject) -> Measurement:
        """One minus the agreement, with the paired interval of base and subject on the same images."""
        base = subject.base.evaluation
        return Measurement(*subject.evaluation.against(base).merit_drop(base.against(base)))


OBJECTIVES.add(Agreement.name, Agreement())
