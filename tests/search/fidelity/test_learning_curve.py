"""The learning curve: what full training should make of a result at a low rung."""

from __future__ import annotations

import pytest

from sousvit.objectives.objective import Measurement
from sousvit.search.fidelity.learning_curve import LOSS_POWER, SHOWN, SPREAD, UNTRAINED_SHARE, LearningCurve
from sousvit.search.trial import Trial, trial_key

BASE = {"accuracy": Measurement(0.9), "accuracy_drop": Measurement(0.0), "latency": Measurement(10.0)}


def trial(name: str, drop: float, fidelity: float, status: str = "complete") -> Trial:
    recipe = {"runtime": "onnxruntime", "steps": [{"technique": "prune_mlp", "keep": 1 / (1 + int(name, 36))}]}
    values = {"accuracy": Measurement(0.9 - drop), "accuracy_drop": Measurement(drop), "latency": Measurement(5.0)}
    return Trial(trial_key(recipe, fidelity, 0), recipe, fidelity, 0, status, values)


def test_before_any_promotion_a_loss_is_expected_to_fall_with_training():
    curve = LearningCurve(BASE, [trial("a", 0.1, 0.25)])
    assert curve.share("accuracy", 0.25) == pytest.approx(0.25**LOSS_POWER)
    assert curve.share("accuracy", 0.0) == UNTRAINED_SHARE and curve.share("accuracy", 1.0) == 1.0
    assert curve.spread("accuracy", 0.25) == SPREAD and curve.spread("accuracy", 1.0) == 0.0
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

    assert promoted([0.1] * 12) < SPREAD / 1.5 < SPREAD < promoted([0.0, 0.2] * 12)


def test_what_failed_or_was_gated_teaches_nothing():
    records = [trial("a", 0.4, 0.25, "gated"), trial("a", 0.1, 1.0)]
    assert LearningCurve(BASE, records).share("accuracy", 0.25) == pytest.approx(0.25**LOSS_POWER)
