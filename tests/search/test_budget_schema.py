"""The JSON schema says what the reader says: budgets that it takes are valid, and misspelt ones are not."""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from sousvit.search.budget_schema import budget_schema

ROOT = Path(__file__).parents[2]
VALIDATOR = jsonschema.Draft202012Validator(budget_schema())


def budgets():
    """Every budget in the examples, the benchmarks and the pages."""
    for path in [*ROOT.glob("examples/**/*.yaml"), *ROOT.glob("benchmarks/**/*.yaml")]:
        yield path.relative_to(ROOT).as_posix(), yaml.safe_load(path.read_text())
    for page in sorted(ROOT.glob("docs/*.md")):
        for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(), re.S)):
            try:
                yield f"{page.name} {number}", yaml.safe_load(block)
            except yaml.YAMLError:
                continue


WHOLE = {
    name: value for name, value in budgets() if isinstance(value, dict) and {"model", "data", "optimize"} <= {*value}
}


def test_the_schema_itself_is_one():
    jsonschema.Draft202012Validator.check_schema(budget_schema())
    assert len(WHOLE) >= 3


@pytest.mark.parametrize("name", WHOLE)
def test_every_budget_that_we_show_is_valid(name):
    assert [error.message for error in VALIDATOR.iter_errors(WHOLE[name])] == []


SHORT = {"model": "base.safetensors", "data": "none", "optimize": "latency"}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"targets": "local-1-thread"},
        {"targets": {"runtime": "onnxruntime", "threads": "all", "memory": "512 MB"}},
        {"targets": ["local-1-thread", {"runtime": ["openvino"]}]},
        {"search": {"time": "1h30m", "measure_time": 0.5}},
        {"limits": {"size": "2 MB", "latency_ratio": 0.5}},
        {"optimize": ["latency", "size"], "prefer": {"latency": 2, "size": 1}},
        {"prefer": "latency"},
        {"prefer": ["latency"]},
        {"model": {"name": "vit", "preprocess": {"size": 224, "resize_size": [256, 256]}}},
    ],
)
def test_short_forms_are_valid(change):
    assert [error.message for error in VALIDATOR.iter_errors({**SHORT, **change})] == []


@pytest.mark.parametrize(
    "change",
    [
        {"optimise": ["latency"]},
        {"search": {"time": "soon"}},
        {"search": {"trials": 0}},
        {"model": {"checkpoints": "x"}},
        {"data": {"format": "folder", "trains": "x"}},
        {"targets": [3]},
        {"model": {"preprocess": {"resize": "fit"}}},
    ],
)
def test_misspelt_ones_are_not(change):
    assert not VALIDATOR.is_valid({**SHORT, **change})
