"""The base's own figures against what it should reach: most faults of a model's input show there, and only there.

Wrong preprocessing, classes in another order, weights that did not load, labels of another data set: each leaves a base
that answers, and answers at random. Every figure of a search would then be relative to nonsense.
"""

from __future__ import annotations

from sousvit.errors import UserError
from sousvit.objectives.objective import Measurement
from sousvit.objectives.tasks.task import Evaluation, JudgingTask

#: Half-widths of a 95% interval within which the expected figure must lie: 99.9% of right bases are let through.
TOLERANCE = 3.29 / 1.96
_CAUSES = "check model.preprocess, data.classes (the order of the labels), model.checkpoint"


def check_base(found: Evaluation, task: JudgingTask, expected: float | None, where: str) -> Measurement:
    """The base's figure of merit on labelled images.

    Args:
        expected: what the user knows it to be, on images of the same kind.
        where: the images' name.

    Raises:
        UserError: it is another than expected; or, where nothing is expected, no better than an answer that is always
            the most frequent class.
    """
    value, low, high = found.merit()
    figure = f"{value:.1%} [{low:.1%}, {high:.1%}] on {where}"
    if expected is not None:
        least, most = value - (value - low) * TOLERANCE, value + (high - value) * TOLERANCE
        if not least <= expected <= most:
            cause = "was it trained on these images?" if value > expected else _CAUSES
            raise UserError(f"the base's {task.quality} is model.expected_accuracy {expected:.1%}", figure, cause)
    elif low <= found.chance:
        rule = f"the base is better than the most frequent class ({found.chance:.1%})"
        sure = "; if it is right, write model.expected_accuracy"
        raise UserError(rule, f"{task.quality} {figure}", _CAUSES + sure)
    return Measurement(value, low, high)
