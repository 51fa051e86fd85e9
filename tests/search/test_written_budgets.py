"""The usual budget of the grammar is read; what comes of hostile ones is a part of the campaign."""

from __future__ import annotations

from tests.campaign import budgets
from tests.campaign.budgets import USUAL, finding, made, read


def test_the_usual_budget_is_read(tmp_path):
    path, text = tmp_path / "budget.yaml", "\n".join(f"{key}: {value}" for key, value in USUAL.items())
    assert read(path, text).targets


def test_budgets_depend_on_seed_and_number_alone():
    one = made("budget of near values", 3, 1)
    assert one == made("budget of near values", 3, 1) != made("budget of near values", 4, 1)
    assert len({*one}) > 50


def test_a_refusal_that_is_no_line_is_found_with_its_text(tmp_path, monkeypatch):
    def refuse(path, text):
        raise KeyError("model")

    monkeypatch.setattr(budgets, "read", refuse)
    assert finding(tmp_path / "budget.yaml", "near", "a: 1") == "KeyError: 'model': 'a: 1'"
