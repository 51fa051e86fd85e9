"""The answer at 80, 100 and 140 columns: no line is longer, nothing essential is cut off, the recipe is there whole."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from sousvit.objectives.objective import Measurement
from sousvit.search.preference.alternatives import Alternative
from sousvit.search.report.terminal import print_answer, print_archive_answer, short_recipe
from sousvit.search.results import Answer, Row
from sousvit.search.trial import Trial
from sousvit.search.verdict import JudgedLimit

LONG = {
    "steps": [
        {"technique": "student", "model": "residual", "width": 24, "depth": 2},
        {"technique": "prune_mlp", "keep": 0.625},
        {"technique": "prune_embed", "keep": 0.875},
        {"technique": "distill", "passes": 4.0},
        {"technique": "ptq_int8", "model": "f32"},
    ],
    "runtime": "openvino",
}
SHORT = {"steps": [{"technique": "ptq_int8", "model": "f32"}], "runtime": "openvino"}
BASE = {"steps": [], "runtime": "onnxruntime"}
VALUES = {
    "accuracy": Measurement(0.9024, 0.8912, 0.9131),
    "accuracy_drop": Measurement(0.0184, 0.0101, 0.0267),
    "latency": Measurement(12.3456, 12.1, 12.5),
    "latency_ratio": Measurement(0.058, 0.0571, 0.0592),
    "size": Measurement(0.3456),
    "size_ratio": Measurement(0.01785),
    "params": Measurement(0.26),
    "macs": Measurement(6.8),
    "eer": Measurement(0.04),
}


def limit(name, verdict, images=""):
    return JudgedLimit(name, "<= 0.025", 0.0184, 0.0101, 0.0267, 0.9, images, verdict)


@pytest.fixture
def answer():
    chosen, other = (Trial(f"key {place}", recipe, 1.0, 0, "complete", VALUES) for place, recipe in
                     enumerate((LONG, SHORT)))  # fmt: skip
    rows = [Row("base", BASE, VALUES), Row("recipe", LONG, VALUES), Row("best single", SHORT, VALUES)]
    rows += [Row(f"without {name}", SHORT, VALUES) for name in ("student", "prune_mlp", "prune_embed", "distill")]
    limits = (limit("accuracy_drop", "not shown", "the test split"), limit("latency_ratio", "holds"),
              limit("size_ratio", "broken"))  # fmt: skip
    alternatives = (Alternative(("answer", "fastest"), chosen), Alternative(("smallest", "knee"), other))
    cost = {"wall_seconds": 90.0, "answer_seconds": 30.0, "core_hours": 0.05, "trials": 12.0, "gated": 3.0,
            "gates_saved_seconds": 60.0}  # fmt: skip
    return Answer(
        True, chosen, other, rows=tuple(rows), notes=("a note that says something of some length " * 4,), cost=cost,
        images="the test split", limits=limits, reason="it is the fastest of 7 that hold every limit",
        alternatives=alternatives,
    )  # fmt: skip


def printed(answer, budget, tmp_path, width, wide=False):
    out = Console(file=io.StringIO(), width=width)
    print_answer(out, answer, budget, tmp_path.relative_to(tmp_path.parent), tmp_path / "r", wide)
    return out.file.getvalue().splitlines()


def without_paths(lines):
    return [line for line in lines if not line.startswith(("recipe   ", "model ", "report ")) or "+" in line]


@pytest.mark.parametrize("width", [80, 100, 140])
def test_no_line_is_longer_and_nothing_is_cut_off(width, answer, simulated, tmp_path):
    budget = simulated(optimize=["latency", "size"]).budget
    lines = without_paths(printed(answer, budget, tmp_path, width))
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    assert "…" not in text and "..." not in text
    assert short_recipe(LONG) in text
    for told in ("17.24x as fast [16.89, 17.51]", "56.02x smaller", "top-1 90.24%", "-1.84 points [-2.67, -1.01]",
                 "base", "best single", "without prune_embed", "1.5 min, 0.5 min of it the answer"):  # fmt: skip
        assert told in text, told


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_answer_comes_first_in_three_lines(width, answer, simulated, tmp_path):
    lines = printed(answer, simulated(optimize=["latency", "size"]).budget, tmp_path, width)
    heads = [line.split(" ")[0] for line in lines if line and not line.startswith(" ")]
    assert heads[:3] == ["recipe", "figures", "limits"]
    text = " ".join(" ".join(lines).split())
    said = "limits accuracy_drop not shown on the test split, latency_ratio ok, size_ratio missed"
    assert said in text


def test_the_table_has_five_columns_and_wide_all_of_them(answer, simulated, tmp_path):
    budget = simulated(optimize=["latency", "size"]).budget
    narrow = next(line for line in printed(answer, budget, tmp_path, 80) if "speed-up" in line)
    assert narrow.split() == ["top-1", "%", "points", "speed-up", "smaller"]
    wide = printed(answer, budget, tmp_path, 80, wide=True)
    heading = next(line for line in wide if "speed-up" in line)
    assert all(name in heading for name in ("p50 ms", "MB", "M params", "MMACs", "EER", "recipe"))
    row = next(line for line in wide if "│ recipe" in line)
    assert short_recipe(LONG) in row and "17.24 [16.89, 17.51]" in row


def test_the_costs_of_the_table_are_those_that_the_budget_asks_of_first(answer, simulated, tmp_path):
    rows = [replace(row, values={**row.values, "energy": Measurement(123.4, 120.0, 126.0)}) for row in answer.rows]
    asked = replace(answer, rows=tuple(rows))
    budget = simulated(optimize=["energy", "accuracy"], limits={"size": 4}).budget
    lines = printed(asked, budget, tmp_path, 80)
    assert next(line for line in lines if "points" in line and "top-1 %" in line).split()[-3:] == [
        "energy,", "mJ", "smaller"]  # fmt: skip
    assert max(map(len, without_paths(lines))) <= 80


@pytest.mark.parametrize("width", [80, 100, 140])
def test_an_archives_answer_fits_too(width, answer, simulated):
    budget = simulated(optimize=["latency", "size", "accuracy"]).budget
    out = Console(file=io.StringIO(), width=width)
    print_archive_answer(out, replace(answer, rows=()), budget)
    lines = out.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert short_recipe(LONG) in " ".join(" ".join(lines).split())


def test_a_log_has_whole_lines(answer, simulated, tmp_path):
    out = Console(file=io.StringIO(), width=80, soft_wrap=True)
    print_answer(out, answer, simulated().budget, tmp_path, tmp_path / "report.html")
    lines = out.file.getvalue().splitlines()
    assert lines[0] == f"recipe   {short_recipe(LONG)}" and lines[2].startswith("limits   accuracy_drop not shown")
