"""The terminal view: one line a trial, which says why."""

from __future__ import annotations

import pytest

from sousvit.objectives.objective import Measurement
from sousvit.search.callbacks import Counts
from sousvit.search.report.terminal import console, print_applied, trial_line
from sousvit.search.trial import Trial

RECIPE = {"steps": [{"technique": "prune_depth", "drop": 1}], "runtime": "onnxruntime"}


@pytest.mark.parametrize(
    ("status", "fidelity", "message", "drop", "words"),
    [
        ("complete", 1.0, "", 0.01, "fits: accuracy 0.8"),
        ("complete", 0.25, "", 0.01, "fits at 25% of the training: accuracy 0.8"),
        ("complete", 1.0, "", 0.5, "breaks accuracy_drop: accuracy 0.8"),
        ("gated", 0.25, "gated by shape: size_ratio 0.6, limit <= 0.5", 0.01, "gated by shape: size_ratio 0.6"),
        ("failed", 1.0, "out of memory", 0.01, "FAILED: out of memory"),
    ],
)
def test_a_trial_is_one_line_that_says_why(status, fidelity, message, drop, words, simulated):
    budget = simulated(limits={"accuracy_drop": 0.1}).budget
    values = {"accuracy": Measurement(0.8), "accuracy_drop": Measurement(drop)}
    record = Trial("key", RECIPE, fidelity, 0, status, values, {"judge": 2.0}, message=message)
    line = trial_line(record, Counts(finished=7), budget)
    assert line.startswith("#7") and words in line and "prune_depth(1)" in line and "\n" not in line


def test_what_reading_the_data_changed_is_printed_with_an_applied_recipe():
    out = console()
    result = {"artifact": "out", "recipe": RECIPE, "figures": {"size_mb": 1.0}, "notes": ["3 boxes [cut] in train"]}
    with out.capture() as captured:
        print_applied(out, result)
    assert captured.get().splitlines()[-1] == "note: 3 boxes [cut] in train"
