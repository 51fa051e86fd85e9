"""The gate: what is rejected before it is trained, and at which end of an interval a limit is judged."""

from __future__ import annotations

import pytest

from sousvit.objectives.objective import Measurement
from sousvit.search.goals import Goals
from sousvit.search.judging.gate import rejection, seconds_saved
from sousvit.search.limits import Limit
from sousvit.search.trial import Trial

WEIGHTS = {"latency": 1.0, "size": 1.0}
RIVAL = {"latency": 2.0, "size": 1.0}


def test_a_rejection_says_why():
    limits = (Limit("latency", 2.0, False),)
    slow_and_large, fast = {"latency": Measurement(3.0), "size": Measurement(3.0)}, {"latency": Measurement(1.0)}
    assert "latency 3, limit <= 2 ms" in rejection({"latency": Measurement(3.0)}, Goals(limits, WEIGHTS), [])
    assert "latency and size" in rejection(slow_and_large, Goals((), WEIGHTS), [RIVAL])
    assert rejection(slow_and_large | fast, Goals(limits, WEIGHTS), [RIVAL]) == ""


@pytest.mark.parametrize(("confidence", "judged"), [(0.5, 0.01), (0.975, 0.02), (0.9, 0.01 + 0.01 * 1.2816 / 1.96)])
def test_a_limit_is_judged_at_the_worse_end_of_the_interval(confidence, judged):
    drop = Measurement(0.01, 0.0, 0.02)
    assert Limit("accuracy_drop", 0.02, False, confidence).cautious(drop) == pytest.approx(judged, abs=1e-5)
    high = Limit("accuracy", 0.9, True, confidence).cautious(Measurement(0.99, 0.98, 1.0))
    assert high == pytest.approx(0.99 - (judged - 0.01), abs=1e-5)


def test_a_broken_limit_names_the_figure_and_the_judged_end():
    phrase = Limit("accuracy_drop", 0.012, False, 0.975).phrase(Measurement(0.01, 0.0, 0.02))
    assert phrase == "accuracy_drop 0.01 (0.02 at 98% confidence), limit <= 0.012"
    assert Limit("size", 1.0, False, 0.9).phrase(None) == "size was not measured, limit <= 1 MB"


def test_what_gates_saved_is_what_finished_recipes_took():
    def trial(status: str, trains: bool, fidelity: float = 1.0, **seconds: float) -> Trial:
        steps = [{"technique": "distill", "epochs": 2}] if trains else [{"technique": "int8_dynamic"}]
        recipe = {"steps": steps, "runtime": "onnxruntime"}
        return Trial(f"{status}{trains}", recipe, fidelity, 0, status, seconds=seconds)

    done = [
        trial("complete", True, 0.25, recover=10.0, export=1.0, judge=2.0),
        trial("complete", True, recover=40.0, judge=3.0),
    ]
    gated = [trial("gated", True, 0.5, gate=1.0), trial("gated", False)]
    assert seconds_saved([*done, *gated]) == pytest.approx((3 + 0.5 * 40) + 3)
    assert seconds_saved(gated) == seconds_saved(done) == 0.0
