"""The notebooks, cell by cell, on the files that they name."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
#: What is executed together in one folder, in this order: the last looks at the run of the one before.
TOGETHER = {("hugging_face", "front"): ("dataset", "hugging-face"), ("own_module",): ("photos", "weights")}


def cells(name: str) -> list[str]:
    """The code of a notebook's cells."""
    notebook = json.loads((ROOT / "examples" / "notebooks" / f"{name}.ipynb").read_text())
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def execute(name: str, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the cells of a notebook show: the value of each one's last expression, as a notebook would draw it.

    As in a notebook they are the main module's, and no file.
    """
    main = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    names = vars(main)
    shown = []
    for number, text in enumerate(cells(name)):
        tree = ast.parse(text)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"{name}[{number}]", "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), f"{name}[{number}]", "eval"), names))
            draw = getattr(shown[-1], "_repr_html_", None)
            assert draw is None or draw()
    return shown


def test_every_notebook_is_executed_and_keeps_no_output():
    assert {path.stem for path in NOTEBOOKS} == {name for names in TOGETHER for name in names}
    for path in NOTEBOOKS:
        notebook = json.loads(path.read_text())
        assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
        assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
        for cell in notebook["cells"]:
            assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None)


@pytest.mark.slow
@pytest.mark.parametrize("names", TOGETHER, ids="-".join)
def test_notebooks_run(names, write, quickstart_file, tmp_path, monkeypatch, measures_quickly, forget_plugins):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    if "weights" in TOGETHER[names]:
        quickstart_file("own-module")
    write(*TOGETHER[names])
    shown = {name: execute(name, monkeypatch) for name in names}
    sys.modules.pop("my_model", None)
    assert all(len(values) >= 4 for values in shown.values())
