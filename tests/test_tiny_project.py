from __future__ import annotations

import pytest

from sousvit.data import Splits
from sousvit.models.load import load
from sousvit.spaces.training.base import figures_of


def test_the_tiny_base_is_clearly_better_than_chance_but_not_perfect_by_construction(tiny_project):
    base = load(tiny_project.model_spec())
    splits = Splits(tiny_project.data_spec(), base.size, base.channels)
    assert (len(splits.train), len(splits.validation), splits.num_classes) == (600, 100, 3)
    measured = figures_of(base.module, splits.open_test(), base, "fp32")["top1"]
    assert measured == pytest.approx(tiny_project.test_top1, abs=1e-4)
    assert measured > 0.8


def test_budgets_are_written_with_changes(tiny_project, tmp_path):
    text = tiny_project.write_budget(tmp_path / "budget.yaml", optimize=["latency"]).read_text()
    assert "latency" in text and str(tiny_project.checkpoint) in text
