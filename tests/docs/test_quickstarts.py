"""The quickstarts, done as they are written: files, commands and Python, from top to bottom in one folder."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "quickstart"
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.S | re.M)
#: By page: what its reader has. Lines of the page's own that only show a file are written first.
NEEDS = {
    "timm": ("photos", "timm"),
    "hugging-face": ("dataset", "hugging-face"),
    "own-module": ("photos", "weights"),
}


def test_every_quickstart_is_done():
    assert {page.stem for page in PAGES.glob("*.md")} == set(NEEDS)


@pytest.mark.slow
@pytest.mark.parametrize("page", NEEDS)
def test_a_quickstart_does_what_it_says(page, write, tmp_path, run_sousvit, monkeypatch, measures_quickly):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    blocks = BLOCK.findall((PAGES / f"{page}.md").read_text())
    for kind, text in blocks:
        if "file=" in kind:
            (tmp_path / kind.partition("file=")[2]).write_text(text)
    write(*NEEDS[page])
    names: dict[str, object] = {"__name__": page}
    ran = 0
    for kind, text in blocks:
        if kind == "python run":
            exec(compile(text, page, "exec"), names)
            ran += 1
        for line in text.splitlines() if not kind else ():
            if line.startswith("sousvit "):
                done = run_sousvit(*shlex.split(line, comments=True)[1:], cwd=tmp_path)
                answer = done.returncode if "search" not in line and "report" not in line else 0
                assert answer == 0 and done.returncode in (0, 3), f"{line}\n{done.stdout}\n{done.stderr}"
                ran += 1
    assert ran >= 2
    assert (tmp_path / "dist" / "predict.py").is_file() and (tmp_path / "runs" / "pets" / "report.html").is_file()
    sys.modules.pop("my_model", None)
