"""Runs to report: simulated searches, with details as a real one keeps them."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from sousvit.search.report.page.gather import gather
from sousvit.search.results import Answer, Row
from sousvit.search.stored.answer_file import write_answer
from sousvit.search.stored.details_file import ClassFigures, Details, Disagreement, Latency, write_details
from sousvit.search.stored.opened import open_run


def png(number: int) -> str:
    """A noisy thumbnail, as large as one gets."""
    out = io.BytesIO()
    Image.effect_noise((64, 64), 60 + number).convert("RGB").save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def details() -> Details:
    latency = {"p50": 1.0, "low": 0.9, "high": 1.1, "p95": 1.4, "p99": 2.0, "samples": 100}
    roles = ("base", "recipe", "best single", "without int8_dynamic")
    return Details(
        latencies={role: {"local": Latency(**latency)} for role in roles},
        classes=tuple(ClassFigures(name=f"class {n}", count=100, base=90, answer=80 + n) for n in range(10)),
        num_disagreements=40,
        disagreements=tuple(Disagreement(image=png(n), label="cat", base="cat", answer="dog") for n in range(24)),
        sensitivity={f"block {n}": 0.1 * n for n in range(1, 7)},
        sensitivity_of="answer",
    )


def with_parts(answer: Answer) -> Answer:
    """The answer with the rows of itself without each technique, made up from its own."""
    assert answer.row is not None and answer.chosen is not None
    rows = [*answer.rows]
    for number, name in enumerate(answer.chosen.techniques):
        values = dict(answer.row.values)
        for figure, factor in (("latency_ratio", 1.3 + number / 10), ("size", 1.5), ("accuracy", 1.001)):
            values[figure] = replace(values[figure], value=values[figure].value * factor)
        rows.append(Row(f"without {name}", answer.chosen.recipe, values))
    return replace(answer, rows=tuple(rows))


@pytest.fixture(scope="session")
def shown_run(simulated_search, tmp_path_factory) -> Path:
    """A finished run of 300 trials with all that a report can show."""
    folder = tmp_path_factory.mktemp("runs") / "three hundred"
    answer, _ = simulated_search(folder, search={"trials": 300, "proposer": "random", "explore_fidelity": 0.0})
    budget, archive = open_run(folder)
    write_answer(with_parts(answer), budget, archive)
    write_details(details(), folder)
    return folder


@pytest.fixture(scope="session")
def shown(shown_run):
    """The content of its report."""
    return gather(shown_run)
