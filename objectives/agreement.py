"""Agreement: how often the artifact predicts what the base predicts; what there is to say without labels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, cast

from sousvit.common.specs import Task
from sousvit.objectives.objective import OBJECTIVES, Direction, Measurement, Objective, Stage, Subject

if TYPE_CHECKING:
    from sousvit.objectives.tasks.classification import TopOneEvaluation
    from sousvit.objectives.tasks.task import Evaluation


class Agreement(Objective):
    """Share of images on which the artifact's largest logit is that of the base, with its Wilson interval."""

    name: ClassVar[str] = "agreement"
    unit: ClassVar[str] = "share"
    direction: ClassVar[Direction] = "maximize"
    stage: ClassVar[Stage] = Stage.TRAINED
    summary: ClassVar[str] = "top-1 agreement of the artifact with the base; needs no labels"
    task: ClassVar[Task | None] = "classification"

    def measure(self, subject: Subject) -> Measurement:
        """See :class:`Objective`."""
        from sousvit.objectives.tasks.classification import interval

        judged = _against(subject.base.evaluation, subject.evaluation)
        return Measurement(judged.top1, *interval(judged))

    def measure_drop(self, subject: Subject) -> Measurement:
        """One minus the agreement, with the paired interval of base and subject on the same images."""
        from sousvit.objectives.tasks.classification import paired_difference

        base = subject.base.evaluation
        return Measurement(*paired_difference(_against(base, base), _against(base, subject.evaluation)))


def _against(base: Evaluation, evaluation: Evaluation) -> TopOneEvaluation:
    """The evaluation with the base's predictions in the place of labels."""
    one, other = cast("TopOneEvaluation", base), cast("TopOneEvaluation", evaluation)
    return replace(other, labels=one.predictions)


OBJECTIVES.add(Agreement.name, Agreement())
