from __future__ import annotations

import importlib.metadata

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
    assert things.register("a")(1) == 1
    assert not things.installed
    assert things.get("a") == 1
    assert things.names() == ["a", "b"]
    assert list(things) == [1, 2]
    assert "a" in things and "c" not in things


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

    things = Registry("thing", "sousvit.things", check)
    entry_points += [Point("good", "good"), Point("bad", "worse")]
    with pytest.raises(UserError, match="a thing is its name; received worse"):
        things.names()


def test_a_plug_in_cannot_replace_ours(things, entry_points):
    things.add("a", 1)
    entry_points.append(Point("a", 2))
    with pytest.raises(UserError, match="unique"):
        things.names()
    assert things.get("a") == 1


def test_two_plug_ins_of_one_name_are_refused(things, entry_points):
    entry_points += [Point("a", object()), Point("a", object())]
    with pytest.raises(UserError, match="unique"):
        things.names()


def test_a_broken_plug_in_is_told_at_every_look_up_and_ours_still_work(things, entry_points):
    things.add("ours", 1)
    entry_points += [Point("good", 3), Point("bad", ImportError("no module named that"))]
    for _ in range(2):
        with pytest.raises(UserError, match="thing plug-in 'bad' must import; received ImportError: no module"):
            things.names()
    assert things.get("ours") == 1


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
