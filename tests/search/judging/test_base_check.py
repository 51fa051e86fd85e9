"""A base that answers at random is told before anything is made relative to it."""

from __future__ import annotations

import numpy as np
import pytest

from sousvit.errors import UserError
from sousvit.objectives.tasks.classification import TopOneEvaluation
from sousvit.objectives.tasks.task import JUDGING_TASKS
from sousvit.search.judging.base_check import check_base

TASK = JUDGING_TASKS.get("classification")


def evaluation(correct: int, count: int = 1000, most: int = 100) -> TopOneEvaluation:
    """``correct`` of ``count`` right, and ``most`` images of the most frequent of ten classes."""
    rest = count - most
    labels = np.concatenate([np.zeros(most, np.int64), np.arange(rest) % max(1, count // most - 1) + 1])
    predictions = labels.copy()
    predictions[correct:] = 99
    return TopOneEvaluation(predictions, labels)


def refusal(*arguments) -> str:
    with pytest.raises(UserError) as raised:
        check_base(*arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("correct", [0, 80, 100, 115])
def test_a_base_at_chance_is_refused_with_the_usual_causes(correct):
    message = refusal(evaluation(correct), TASK, None, "1000 validation images")
    assert "better than the most frequent class (10.0%)" in message and "data.classes" in message


def test_a_base_that_is_better_passes():
    assert check_base(evaluation(150), TASK, None, "images").value == 0.15
    skewed = evaluation(960, most=950)
    assert "95.0%" in refusal(skewed, TASK, None, "images")
    assert check_base(skewed, TASK, 0.96, "images").value == 0.96


def test_an_expected_accuracy_is_held_within_the_interval():
    assert check_base(evaluation(900), TASK, 0.912, "images").value == 0.9
    assert "model.preprocess" in refusal(evaluation(800), TASK, 0.912, "images")
    assert "trained on these images" in refusal(evaluation(999), TASK, 0.912, "images")
    assert check_base(evaluation(90), TASK, 0.1, "images").value == 0.09
