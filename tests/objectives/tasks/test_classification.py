from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sousvit.errors import TrialError, UserError
from sousvit.objectives.runtimes.runtime import Session, open_session
from sousvit.objectives.tasks.classification import TopOneEvaluation, evaluate, interval, paired_difference, wilson


def from_correct(correct: np.ndarray) -> TopOneEvaluation:
    return TopOneEvaluation(np.where(correct, 0, 1), np.zeros(len(correct), np.int64))


def test_predictions_do_not_depend_on_the_batch(subject: Any) -> None:
    images = subject.evaluation
    assert images.predictions.dtype == np.int64 and len(images.correct) == len(images.labels)
    assert images.top1 == pytest.approx(float((images.predictions == images.labels).mean()))


def test_batches_agree(subject: Any, noise: Any) -> None:
    data, scale = noise
    with open_session(subject.artifact, 1) as session:
        one, seven = (evaluate(session, data, scale, batch) for batch in (1, 7))
    assert np.array_equal(one.predictions, seven.predictions)


def test_an_empty_split_is_a_user_error(subject: Any, noise: Any) -> None:
    data, scale = noise
    with open_session(subject.artifact, 1) as session, pytest.raises(UserError, match="hold images"):
        evaluate(session, data.subset([]), scale)


class Broken(Session):
    def run(self, batch: np.ndarray) -> np.ndarray:
        return np.full((len(batch), 4), np.nan, np.float32)


def test_logits_that_are_not_finite_fail_the_trial(noise: Any) -> None:
    with pytest.raises(TrialError, match="finite"):
        evaluate(Broken(), *noise)


def test_wilson_matches_known_values() -> None:
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-4)  # Newcombe 1998, table I
    assert wilson(0, 20)[0] == 0.0 and wilson(20, 20)[1] == pytest.approx(1.0)
    assert interval(from_correct(np.ones(20, bool))) == wilson(20, 20)


def test_paired_interval_matches_newcombe_1998() -> None:
    # Table III of that paper: 36, 12, 2, 0 gives 0.2, with (0.0569, 0.3404) by method 10.
    first = np.array([True] * 48 + [False] * 2)
    second = np.array([True] * 36 + [False] * 12 + [True] * 2)
    assert paired_difference(from_correct(first), from_correct(second)) == pytest.approx(
        (0.2, 0.0569, 0.3404), abs=1e-3
    )


def test_equal_predictions_have_a_width() -> None:
    same = from_correct(np.array([True] * 95 + [False] * 5))
    drop, low, high = paired_difference(same, same)
    assert drop == 0 and low <= 0 <= high and high - low < 0.12


@pytest.mark.parametrize(("worse", "better", "base"), [(0.05, 0.02, 0.9), (0.01, 0.01, 0.97), (0.2, 0.05, 0.6)])
def test_the_paired_interval_covers(worse: float, better: float, base: float) -> None:
    rng, covered = np.random.default_rng(0), 0
    for _ in range(400):
        draw = rng.random(500)
        first = draw < base
        second = (first & (draw >= worse)) | (draw > 1 - better)
        low, high = paired_difference(from_correct(first), from_correct(second))[1:]
        covered += low <= worse - better <= high
    assert covered / 400 > 0.92


def test_paired_needs_the_same_images() -> None:
    with pytest.raises(UserError, match="same images"):
        paired_difference(from_correct(np.ones(3, bool)), from_correct(np.ones(4, bool)))
