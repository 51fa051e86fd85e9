"""The terminal view: one line a trial, which says why."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sousvit.objectives.objective import OBJECTIVES, Measurement, Objective, Stage
from sousvit.search.callbacks import Counts
from sousvit.search.judging.comparison import compared_figures
from sousvit.search.preference.alternatives import Alternative
from sousvit.search.report.terminal import (
    SearchView,
    console,
    headings,
    print_applied,
    print_archive_answer,
    print_limits,
    row_cells,
    trial_line,
    wide_table,
)
from sousvit.search.results import Answer, Row
from sousvit.search.trial import Trial
from sousvit.search.verdict import JudgedLimit

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


def test_the_teachers_runtime_is_told_once(simulated, tmp_path, capsys):
    with SearchView(simulated().budget, tmp_path) as view:
        for what in ("choosing the teacher's runtime", "teacher: openvino int8, 3,000 images/s", "recover", "recover"):
            view.on_progress(what, 0, 0)
    lines = [line.partition(" ")[2].strip() for line in capsys.readouterr().err.splitlines()]  # without the time
    assert lines.count("... teacher: openvino int8, 3,000 images/s") == 1 and "... recover" not in lines


def test_what_reading_the_data_changed_is_printed_with_an_applied_recipe():
    out = console()
    figures = compared_figures({"size_mb": Measurement(1.0)}, {"validation": {"size": 1.5}})
    compared = [one.to_dict() for one in figures]
    notes = ["3 boxes [cut] in train"]
    result = {"artifact": "out", "recipe": RECIPE, "figures": {"size_mb": 1.0}, "notes": notes, "compared": compared}
    with out.capture() as captured:
        print_applied(out, result)
    assert captured.get().splitlines()[-2:] == [
        "size_mb 1, recorded 1.5: disagrees", "note: 3 boxes [cut] in train"
    ]  # fmt: skip


class Blocks(Objective):
    name, unit, direction, stage = "blocks", "blocks", "minimize", Stage.STRUCTURE
    summary = "number of transformer blocks"

    def measure(self, subject):
        return Measurement(float(len(subject.model.blocks)))


USUAL = {
    "accuracy": Measurement(0.8, 0.75, 0.85),
    "accuracy_drop": Measurement(0.1, 0.05, 0.15),
    **{name: Measurement(0.5) for name in ("latency", "latency_ratio", "size", "size_ratio", "params", "macs", "eer")},
}


def test_the_final_table_shows_what_a_budget_asks_beyond_the_usual_a_users_own_objective_too(simulated, forget_plugins):
    OBJECTIVES.register(Blocks)
    asked = {"limits": {"accuracy_drop": 0.1, "blocks_ratio": 0.9}, "optimize": ["latency", "blocks", "latency_p95"]}
    budget = simulated(**asked).budget
    values = {**USUAL, "blocks": Measurement(6.0), "blocks_ratio": Measurement(0.75, 0.7, 0.8)}
    rows = [Row("base", RECIPE, values), Row("recipe", RECIPE, values)]
    found = headings(budget, rows)
    assert found[9:] == ["blocks", "latency_p95, ms", "blocks_ratio"]
    assert row_cells(values, budget)[9:] == ["6", "-", "0.75 [0.7-0.8]"]
    out = Console(width=300)
    with out.capture() as captured:
        out.print(wide_table(Answer(False, None, None, rows=tuple(rows)), budget))
    assert "latency_p95, ms" in captured.get() and captured.get().count("0.75 [0.7-0.8]") == 2


def test_the_final_table_names_nothing_twice(simulated):
    budget = simulated(limits={"accuracy_drop": 0.1, "size": 4}, optimize=["latency", "size", "accuracy"]).budget
    assert len(headings(budget, [Row("base", RECIPE, USUAL)])) == len(row_cells(USUAL, budget)) == 9


LONG = {
    "steps": [
        {"technique": "student", "model": "convnet_24x2"},
        {"technique": "prune_mlp", "keep": 0.5},
        {"technique": "distill", "epochs": 40},
        {"technique": "static_int8"},
    ],
    "runtime": "onnxruntime",
}


def test_what_else_could_have_been_chosen_is_readable_at_80_columns(simulated):
    budget = simulated(limits={}, optimize=["latency", "size", "energy"]).budget
    values = {**USUAL, "energy": Measurement(123.456)}
    names = ("answer", "most accurate"), ("fastest", "lowest energy"), ("smallest", "knee")
    trials = [Trial(f"key {place}", LONG, 1.0, 0, "complete", values) for place in range(3)]
    found = tuple(Alternative(one, trial) for one, trial in zip(names, trials, strict=True))
    answer = Answer(True, trials[0], None, alternatives=found, reason="it is the most accurate of 3")
    for width in (80, 160):
        out = Console(file=io.StringIO(), width=width, soft_wrap=True)
        print_archive_answer(out, answer, budget)
        lines = out.file.getvalue().split("could have been chosen")[1].splitlines()
        assert max(map(len, lines)) <= width
        text = " ".join(" ".join(lines).split())
        assert all(figure in text for figure in ("80.00", "0.5", "123.5", "energy", "student"))
        assert "why      it is the most accurate of 3" in out.file.getvalue()


@pytest.mark.parametrize(("verdict", "colour"), [("holds", "32"), ("not shown", "33"), ("broken", "31")])
def test_only_what_holds_is_green(verdict, colour):
    out = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=160)
    limit = JudgedLimit("accuracy_drop", "<= 0.02", 0.018, 0.01, 0.026, 0.9, "the test split", verdict)
    print_limits(out, [limit])
    said = out.file.getvalue()
    assert f"\x1b[{colour}m" in said and said.count("\x1b[32m") == (verdict == "holds")
    assert f"accuracy_drop 0.018 [0.01-0.026] on the test split, limit <= 0.02 at 0.9 confidence: {verdict}" in said
