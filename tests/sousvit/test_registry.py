from __future__ import annotations

import importlib.metadata
import math
import sys

import pytest

from sousvit.errors import UnknownNameError, UserError
from sousvit.registry import Registry, load_from_file


class Point:
    def __init__(self, name, loaded):
        self.name, self._loaded = name, loaded

    def load(self):
        if isinstance(self._loaded, Exception):
            raise self._loaded
        return self._loaded


@pytest.fixture
def entry_points(monkeypatch):
    """The entry points that the group sousvit.things has; any other group is empty."""
    points: list[Point] = []
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: list(points) if group == "sousvit.things" else []
    )
    return points


@pytest.fixture
def things(entry_points):
    return Registry("thing", "sousvit.things")


def test_what_was_added_is_found_and_listed_sorted(things):
    things.add("b", 2)
    things.add("a", 1)
    assert not things.installed
    assert things.get("a") == 1
    assert things.names() == ["a", "b"]
    assert list(things) == [1, 2]
    assert "a" in things and "c" not in things


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """A registry whose table names three modules, each of which notes that it was imported."""
    imported: list[str] = []
    monkeypatch.setattr("sousvit.registry.noted", imported, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("alpha", "beta", "gamma"):
        source = (
            f"import sousvit.registry\nsousvit.registry.noted.append('{name}')\nclass Thing:\n    pass\nthing = 5\n"
        )
        (tmp_path / f"listed_{name}.py").write_text(source)
    yield {"alpha": "listed_alpha:Thing", "beta": "listed_beta:Thing", "gamma": "listed_gamma:thing"}, imported
    for name in ("alpha", "beta", "gamma"):
        sys.modules.pop(f"listed_{name}", None)


def test_a_look_up_imports_the_one_that_was_asked_for_and_listing_names_none(listed):
    table, imported = listed
    things = Registry("thing", None, table)
    assert things.names() == ["alpha", "beta", "gamma"] and "beta" in things and "delta" not in things
    with pytest.raises(UnknownNameError, match="did you mean 'beta'"):
        things.get("betta")
    assert imported == []
    beta = things.get("beta")
    assert type(beta).__name__ == "Thing" and things.get("beta") is beta and imported == ["beta"]
    assert [type(thing).__name__ for thing in things] == ["Thing", "Thing", "int"]
    assert sorted(imported) == ["alpha", "beta", "gamma"]


def test_a_registry_of_classes_makes_no_instances(listed):
    assert isinstance(Registry("thing", None, listed[0], classes=True).get("alpha"), type)


def test_a_name_in_the_table_cannot_be_taken(listed):
    things = Registry("thing", None, listed[0])
    assert things.add("alpha", things.get("alpha")) is things.get("alpha")
    for name in ("alpha", "beta"):
        with pytest.raises(UserError, match="thing names are unique"):
            things.add(name, object())


def test_a_second_item_of_a_name_is_refused_and_the_first_stays(things):
    first, second = object(), object()
    things.add("a", first)
    things.add("a", first)
    with pytest.raises(UserError, match="thing names are unique; received 'a'"):
        things.add("a", second)
    assert things.get("a") is first


def test_an_unknown_name_names_the_known_ones(things):
    things.add("alpha", 1)
    with pytest.raises(UnknownNameError, match="did you mean 'alpha'"):
        things.get("alhpa")


def test_plug_ins_of_installed_packages_are_found_and_classes_instantiated(things, entry_points):
    class Plugin:
        pass

    entry_points += [Point("class", Plugin), Point("value", 7)]
    assert isinstance(things.get("class"), Plugin)
    assert things.get("class") is things.get("class")
    assert things.names() == ["class", "value"]
    assert things.installed == {"class", "value"}


def test_plug_ins_are_held_to_the_contract(entry_points):
    def check(item: object, name: str) -> None:
        if item != name:
            raise UserError("a thing is its name", item, "rename it")

    things = Registry("thing", "sousvit.things", check=check)
    entry_points += [Point("good", "good"), Point("bad", "worse")]
    assert things.get("good") == "good"
    with pytest.raises(UserError, match="a thing is its name; received worse"):
        things.get("bad")


def test_a_plug_in_of_a_package_cannot_replace_ours(entry_points):
    things = Registry("thing", "sousvit.things", {"a": "math:pi"})
    entry_points.append(Point("a", 2))
    for _ in range(2):
        with pytest.raises(UserError, match="unique"):
            things.names()
    assert things.get("a") == math.pi


def test_a_plug_in_of_a_file_cannot_replace_one_of_a_package(things, entry_points):
    entry_points.append(Point("a", 2))
    with pytest.raises(UserError, match="unique"):
        things.add("a", 1)
    assert things.add("a", things.get("a")) == things.get("a") == 2


def test_two_plug_ins_of_one_name_are_refused(things, entry_points):
    entry_points += [Point("a", object()), Point("a", object())]
    with pytest.raises(UserError, match="unique"):
        things.names()


def test_a_broken_plug_in_is_told_at_every_look_up_and_ours_still_work(things, entry_points):
    things.add("ours", 1)
    entry_points += [Point("good", 3), Point("bad", ImportError("no module named that"))]
    for _ in range(2):
        with pytest.raises(UserError, match="thing plug-in 'bad' must import; received ImportError: no module"):
            list(things)
    assert things.get("ours") == 1 and things.get("good") == 3
    assert things.names() == ["bad", "good", "ours"]


def test_a_class_is_loaded_from_a_file_relative_to_the_folder(tmp_path):
    (tmp_path / "mine.py").write_text("class Mine:\n    value = 5\n")
    found = load_from_file("mine.py:Mine", "objective", tmp_path)
    assert found.value == 5
    assert load_from_file(f"{tmp_path}/mine.py:Mine", "objective") is found, "loaded once"


def test_a_plug_in_may_hold_dataclasses_with_postponed_annotations(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Mine:\n    a: int = 1\n"
    )
    assert load_from_file("mine.py:Mine", "objective", tmp_path)().a == 1


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("mine.py", "is named file.py:ClassName"),
        ("mine.py:not a name", "is named file.py:ClassName"),
        (":Mine", "is named file.py:ClassName"),
        ("absent.py:Mine", "must be an existing .py file"),
        ("mine.txt:Mine", "must be an existing .py file"),
        ("mine.py:Absent", "must hold its class; received 'Absent'"),
        ("mine.py:value", "must hold its class"),
        ("broken.py:Mine", "must import; received ZeroDivisionError"),
        ("syntax.py:Mine", "must import; received SyntaxError"),
        ("exits.py:Mine", "must import; received SystemExit"),
    ],
)
def test_a_wrong_reference_is_one_clear_line(tmp_path, reference, message):
    (tmp_path / "mine.py").write_text("value = 5\nclass Mine: ...\n")
    (tmp_path / "mine.txt").write_text("class Mine: ...\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "syntax.py").write_text("def\n")
    (tmp_path / "exits.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(UserError) as caught:
        load_from_file(reference, "objective", tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_repaired_file_loads_after_a_failure(tmp_path):
    (tmp_path / "mine.py").write_text("1 / 0\n")
    with pytest.raises(UserError):
        load_from_file("mine.py:Mine", "objective", tmp_path)
    (tmp_path / "mine.py").write_text("class Mine: ...  # repaired\n")
    assert load_from_file("mine.py:Mine", "objective", tmp_path).__name__ == "Mine"
