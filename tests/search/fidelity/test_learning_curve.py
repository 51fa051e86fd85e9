"""The learning curve: what full training should make of a result at a low rung."""

from __future__ import annotations

import pytest

from sousvit.objectives.objective import Measurement
from sousvit.search.fidelity.learning_curve import LOSS_POWER, SHOWN, SPREAD, UNTRAINED_SHARE, LearningCurve
from sousvit.search.trial import Trial, trial_key
from sousvit.spaces.context import Start

BASE = {"accuracy": Measurement(0.9), "accuracy_drop": Measurement(0.0), "latency": Measurement(10.0)}


def trial(name: str, drop: float, fidelity: float, status: str = "complete") -> Trial:
    recipe = {"runtime": "onnxruntime", "steps": [{"technique": "prune_mlp", "keep": 1 / (1 + int(name, 36))}]}
    values = {"accuracy": Measurement(0.9 - drop), "accuracy_drop": Measurement(drop), "latency": Measurement(5.0)}
    return Trial(trial_key(recipe, fidelity, 0), recipe, fidelity, 0, status, values)


def test_before_any_promotion_a_loss_is_expected_to_fall_with_training():
    curve = LearningCurve(BASE, [trial("a", 0.1, 0.25)])
    assert curve.share("accuracy", 0.25) == pytest.approx(0.25**LOSS_POWER)
    assert curve.share("accuracy", 0.0) == UNTRAINED_SHARE and curve.share("accuracy", 1.0) == 1.0
    assert curve.spread("accuracy", 0.25) == SPREAD[Start.BASE] and curve.spread("accuracy", 1.0) == 0.0
    expected = curve.expected(trial("a", 0.1, 0.25))
    assert expected.get("accuracy_drop") == pytest.approx(0.1 * 0.25**LOSS_POWER)
    assert expected.get("latency") == 5.0


def test_the_order_of_results_does_not_matter():
    records = [trial(str(place + 1), 0.1 + place / 50, level) for place in range(5) for level in (0.0, 0.25, 1.0)]
    curve, reverse = LearningCurve(BASE, records), LearningCurve(BASE, records[::-1])
    for level in (0.0, 0.25):
        assert curve.share("accuracy", level) == pytest.approx(reverse.share("accuracy", level))
        assert curve.spread("accuracy", level) == pytest.approx(reverse.spread("accuracy", level))


def test_a_rung_in_between_teaches_what_the_lowest_one_leaves():
    climbed = [trial("a", 0.4, 0.0), trial("a", 0.2, 0.25)]
    full = [trial("b", 0.2, 0.25), trial("b", 0.1, 1.0)]
    middle = (0.1 + SHOWN * 0.25**LOSS_POWER) / (0.2 + SHOWN)
    curve = LearningCurve(BASE, [*climbed, *full])
    assert curve.share("accuracy", 0.25) == pytest.approx(middle)
    assert curve.share("accuracy", 0.0) == pytest.approx((0.2 * middle + SHOWN * UNTRAINED_SHARE) / (0.4 + SHOWN))


def test_recipes_that_differ_widen_the_spread_and_alike_ones_narrow_it():
    def promoted(ends):
        pairs = [(trial(str(place), 0.2, 0.25), trial(str(place), end, 1.0)) for place, end in enumerate(ends)]
        return LearningCurve(BASE, [record for pair in pairs for record in pair]).spread("accuracy", 0.25)

    usual = SPREAD[Start.BASE]
    assert promoted([0.1] * 12) < usual / 1.5 < usual < promoted([0.0, 0.2] * 12)


def test_what_failed_or_was_gated_teaches_nothing():
    records = [trial("a", 0.4, 0.25, "gated"), trial("a", 0.1, 1.0)]
    assert LearningCurve(BASE, records).share("accuracy", 0.25) == pytest.approx(0.25**LOSS_POWER)


def student(width: int, accuracy: float, fidelity: float, epochs: int = 12) -> Trial:
    steps = [{"technique": "student", "model": "residual", "width": width}, {"technique": "distill", "epochs": epochs}]
    recipe = {"runtime": "onnxruntime", "steps": steps}
    values = {"accuracy": Measurement(accuracy), "accuracy_drop": Measurement(0.8 - accuracy)}
    return Trial(trial_key(recipe, fidelity, 0), recipe, fidelity, 0, "complete", values)


STUDENT_BASE = {"accuracy": Measurement(0.8), "accuracy_drop": Measurement(0.0)}
PASSED = [student(24, 0.737, 0.25), student(24, 0.81, 1.0), student(32, 0.75, 0.25), student(32, 0.82, 1.0)]


def test_a_small_student_is_not_expected_to_reach_the_base_because_a_large_one_passed_it():
    curve = LearningCurve(STUDENT_BASE, PASSED)
    assert curve.share_of("accuracy", student(48, 0.7, 0.25)) == pytest.approx(0.72, abs=0.02)
    small = curve.expected(student(8, 0.6, 0.25))
    assert small.get("accuracy") == pytest.approx(0.712, abs=0.01)
    assert small.get("accuracy_drop") == pytest.approx(0.8 - small.get("accuracy"), abs=0.01)
    optimistic = curve.expected(student(8, 0.6, 0.25), optimistic=True)
    assert small.get("accuracy") < optimistic.get("accuracy") < 0.79
    large = curve.expected(student(48, 0.79, 0.25))
    assert large.get("accuracy") > 0.82, "and a gain over the base grows on"


def test_a_student_that_has_seen_more_epochs_gains_less_by_the_rest():
    for known in ([], PASSED):
        curve = LearningCurve(STUDENT_BASE, known)
        shares = [curve.share_of("accuracy", student(8, 0.6, 0.25, epochs)) for epochs in (4, 12, 32, 60)]
        assert shares == sorted(shares) and shares[0] < 0.65 and shares[-1] > 0.85
    # Measured on CIFAR-10: 75.7% after 8 epochs, 78.2% after 33.
    expected = LearningCurve(STUDENT_BASE, PASSED).expected(student(8, 0.757, 0.25, 33)).get("accuracy")
    assert expected == pytest.approx(0.79, abs=0.012)


def test_what_students_show_outweighs_the_guess():
    slow = [student(8, 0.7, 0.25), student(8, 0.71, 1.0), student(16, 0.72, 0.25), student(16, 0.725, 1.0)]
    share = LearningCurve(STUDENT_BASE, slow).share_of("accuracy", student(24, 0.7, 0.25))
    assert share > LearningCurve(STUDENT_BASE, []).share_of("accuracy", student(24, 0.7, 0.25)) + 0.1
    assert LearningCurve(STUDENT_BASE, slow).share_of("accuracy", student(24, 0.7, 1.0)) == 1.0
