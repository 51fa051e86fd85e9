"""What the page on models promises is what the command that made it finds."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("transformers")

PAGE = Path(__file__).parents[4] / "docs" / "models.md"


def test_every_line_of_the_page_is_what_its_command_finds(table, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "forms").mkdir()
    found = table.rows(tmp_path / "forms")
    shown = PAGE.read_text().partition("<!-- table -->\n")[2].partition("\n<!-- end -->")[0].splitlines()
    assert [line for line in found if line not in shown] == [], "run python docs/models_table.py"
    assert found == shown
    assert sum("**Y**" in line for line in found) > 30
