"""The quickstarts, done as they are written: files, commands and Python, from top to bottom in one folder."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

PAGES = Path(__file__).parents[2] / "docs" / "quickstart"
#: By page: what its reader has.
NEEDS = {
    "timm": ("photos", "timm"),
    "hugging-face": ("dataset", "hugging-face"),
    "own-module": ("photos", "weights"),
}
#: Exit codes beside 0: few trials need not find what holds every limit.
ALSO = {"search": (3,)}


def test_every_quickstart_is_done():
    assert {page.stem for page in PAGES.glob("*.md")} == set(NEEDS)


@pytest.mark.slow
@pytest.mark.parametrize("page", NEEDS)
def test_a_quickstart_does_what_it_says(
    page, write, quickstart_blocks, quickstart_file, tmp_path, run_sousvit, monkeypatch, measures_quickly
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    quickstart_file(page)
    write(*NEEDS[page])
    names: dict[str, object] = {"__name__": page}
    for kind, text in quickstart_blocks(page):
        if kind == "python run":
            exec(compile(text, page, "exec"), names)
        for line in text.splitlines() if not kind else ():
            if line.startswith("sousvit "):
                done = run_sousvit(*shlex.split(line, comments=True)[1:], cwd=tmp_path)
                assert done.returncode in (0, *ALSO.get(line.split()[1], ())), f"{line}\n{done.stdout}\n{done.stderr}"
    sys.modules.pop("my_model", None)
    assert (tmp_path / "dist" / "predict.py").is_file() and (tmp_path / "runs" / "pets" / "report.html").is_file()
