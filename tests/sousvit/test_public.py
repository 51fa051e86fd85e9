"""The public names: documented, typed, light to import."""

from __future__ import annotations

import inspect
import pkgutil
import subprocess
import sys

import pytest

import sousvit


def test_every_public_name_is_there_documented_and_listed():
    assert sorted(sousvit.__all__) == sousvit.__all__ and set(sousvit._PLACES) == {*sousvit.__all__} - {"techniques"}
    for name in sousvit.__all__:
        found = getattr(sousvit, name)
        assert inspect.getdoc(found), f"{name} says nothing"
        assert name in dir(sousvit)
        if inspect.isfunction(found):
            empty = [key for key, one in inspect.signature(found).parameters.items() if one.annotation is one.empty]
            assert not empty, f"{name}: {empty} without a type"


def test_no_module_takes_the_place_of_a_public_name():
    """Whoever imports ``sousvit.schema`` would make a module of ``sousvit.schema``, for everybody."""
    modules = {module.name for module in pkgutil.iter_modules(sousvit.__path__)}
    assert modules & set(sousvit.__all__) == {"techniques"}
    assert sousvit.Budget and sousvit.schema()["title"] == "Budget"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'compres'"):
        sousvit.compres  # noqa: B018


def test_names_are_imported_when_they_are_used():
    code = (
        "import sys, sousvit\n"
        "assert not [name for name in sys.modules if name.startswith('sousvit.')]\n"
        "from sousvit import Budget, Recipe, Target, compress, open_run, list_runs\n"
        "list_runs()\n"
        "assert not {'torch', 'timm', 'optuna', 'pandas', 'plotly'} & set(sys.modules)\n"
        "import sousvit.search\n"
        "assert sousvit.search.__name__ == 'sousvit.search' and callable(sousvit.compress)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_listings_are_rows_of_text():
    for rows in (sousvit.list_techniques(), sousvit.list_objectives(), sousvit.list_targets(), sousvit.list_spaces()):
        assert len(rows) > 2 and all(row["name"] for row in rows)
