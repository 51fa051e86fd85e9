"""What is rejected before it is trained, and at which end of an interval a limit is judged."""

from __future__ import annotations

import pytest

from sousvit.objectives.objective import Measurement
from sousvit.search.judging.gate import dominated, rejection, seconds_saved
from sousvit.search.limits import Limit
from sousvit.search.trial import TrialRecord

SENSES = {"latency": False, "size": False}
RIVAL = {"latency": 2.0, "size": 1.0}


@pytest.mark.parametrize(
    ("latency", "size", "expected"),
    [
        (Measurement(3.0), Measurement(1.5), True),
        (Measurement(1.5), Measurement(1.5), False),
        (Measurement(3.0), Measurement(1.0), False),
        (Measurement(2.1, 1.9, 2.3), Measurement(1.5), False),
        (Measurement(2.3, 2.1, 2.5), Measurement(1.5), True),
    ],
)
def test_a_candidate_surely_worse_than_a_finished_recipe_is_dominated(latency, size, expected):
    assert dominated({"latency": latency, "size": size}, [RIVAL], SENSES) is expected


def test_an_objective_that_training_decides_settles_nothing():
    values = {"latency": Measurement(9.0), "size": Measurement(9.0)}
    assert not dominated(values, [{**RIVAL, "accuracy": 0.9}], {**SENSES, "accuracy": True})


def test_more_is_better_where_the_objective_says_so():
    assert dominated({"throughput": Measurement(10.0, 9.0, 11.0)}, [{"throughput": 12.0}], {"throughput": True})
    assert not dominated({"throughput": Measurement(10.0, 9.0, 12.5)}, [{"throughput": 12.0}], {"throughput": True})


def test_a_rejection_says_why():
    limits = (Limit("latency", 2.0, False),)
    assert "latency 3, limit <= 2" in rejection({"latency": Measurement(3.0)}, limits, [], SENSES)
    assert "latency and size" in rejection({"latency": Measurement(3.0), "size": Measurement(3.0)}, [], [RIVAL], SENSES)
    assert rejection({"latency": Measurement(1.0), "size": Measurement(3.0)}, limits, [RIVAL], SENSES) == ""


@pytest.mark.parametrize(("confidence", "judged"), [(0.5, 0.01), (0.975, 0.02), (0.9, 0.01 + 0.01 * 1.2816 / 1.96)])
def test_a_limit_is_judged_at_the_worse_end_of_the_interval(confidence, judged):
    drop = Measurement(0.01, 0.0, 0.02)
    assert Limit("accuracy_drop", 0.02, False, confidence).cautious(drop) == pytest.approx(judged, abs=1e-5)
    high = Limit("accuracy", 0.9, True, confidence).cautious(Measurement(0.99, 0.98, 1.0))
    assert high == pytest.approx(0.99 - (judged - 0.01), abs=1e-5)


def test_a_broken_limit_names_the_figure_and_the_judged_end():
    phrase = Limit("accuracy_drop", 0.012, False, 0.975).phrase(Measurement(0.01, 0.0, 0.02))
    assert phrase == "accuracy_drop 0.01 (0.02 at 98% confidence), limit <= 0.012"
    assert Limit("size", 1.0, False, 0.9).phrase(None) == "size was not measured, limit <= 1"


def test_what_gates_saved_is_what_finished_recipes_took():
    def trial(status: str, trains: bool, fidelity: float = 1.0, **seconds: float) -> TrialRecord:
        steps = [{"technique": "distill", "epochs": 2}] if trains else [{"technique": "int8_dynamic"}]
        recipe = {"steps": steps, "runtime": "onnxruntime"}
        return TrialRecord(f"{status}{trains}", recipe, fidelity, 0, status, seconds=seconds)

    done = [
        trial("complete", True, 0.25, recover=10.0, export=1.0, judge=2.0),
        trial("complete", True, recover=40.0, judge=3.0),
    ]
    gated = [trial("gated", True, 0.5, gate=1.0), trial("gated", False)]
    assert seconds_saved([*done, *gated]) == pytest.approx((3 + 0.5 * 40) + 3)
    assert seconds_saved(gated) == seconds_saved(done) == 0.0
