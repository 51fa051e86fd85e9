from __future__ import annotations

import importlib.metadata
import sys
from abc import ABC, abstractmethod

import pytest

from sousvit.errors import UnknownNameError, UserError
from sousvit.registry import Registry, load_class, on_trial


class Thing(ABC):
    """A contract."""

    name = ""
    colour = ""

    @abstractmethod
    def use(self):
        """What it is for."""


class Bell(Thing):
    name, colour = "bell", "brass"

    def use(self):
        return "rings"


class Drum(Thing):
    name, colour = "drum", "red"

    def use(self):
        return "booms"


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
    return Registry("thing", "sousvit.things", base=Thing, declares=("colour",))


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """A table of three modules, and a list of those that were imported."""
    imported: list[str] = []
    monkeypatch.setattr("sousvit.registry.noted", imported, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ("alpha", "beta", "gamma")
    for name in names:
        source = f"import sousvit.registry\nsousvit.registry.noted.append('{name}')\nclass Mine:\n    name = '{name}'\n"
        (tmp_path / f"listed_{name}.py").write_text(source)
    yield {name: f"listed_{name}:Mine" for name in names}, imported
    for name in names:
        sys.modules.pop(f"listed_{name}", None)


@pytest.mark.parametrize("name", [{"a": 1}, ["bell"], None, 1, True])
def test_what_is_no_name_is_unknown(name, things):
    things.register(Bell)
    assert name not in things
    with pytest.raises(UnknownNameError, match="thing must be a known name; received"):
        things.get(name)


def test_a_look_up_imports_the_one_that_was_asked_for_and_listing_names_none(listed):
    table, imported = listed
    things = Registry("thing", None, table)
    assert things.names() == ["alpha", "beta", "gamma"] and "beta" in things and "delta" not in things
    with pytest.raises(UnknownNameError, match="did you mean 'beta'"):
        things.get("betta")
    assert imported == []
    beta = things.get("beta")
    assert beta.name == "beta" and things.get("beta") is beta and imported == ["beta"]
    assert [thing.name for thing in things] == ["alpha", "beta", "gamma"]
    assert sorted(imported) == ["alpha", "beta", "gamma"]


def test_a_registry_of_classes_makes_no_instances(listed):
    things = Registry("thing", None, listed[0], base=Thing, classes=True)
    assert isinstance(things.get("alpha"), type) and things.register(Bell) is Bell


def test_what_was_added_is_found_and_listed_sorted(things):
    bell, drum = Bell(), Drum()
    assert things.add("drum", drum) is drum
    things.add("bell", bell)
    assert not things.installed
    assert things.get("bell") is bell and things.names() == ["bell", "drum"] and list(things) == [bell, drum]
    assert "bell" in things and "horn" not in things


def test_a_second_item_of_a_name_is_refused_and_the_first_stays(things):
    first = things.add("bell", Bell())
    things.add("bell", first)
    with pytest.raises(UserError, match="thing names are unique; received 'bell'"):
        things.add("bell", Bell())
    assert things.get("bell") is first


def test_a_name_in_the_table_cannot_be_taken(listed):
    things = Registry("thing", None, listed[0])
    assert things.add("alpha", things.get("alpha")) is things.get("alpha")
    for name in ("alpha", "beta"):
        with pytest.raises(UserError, match="thing names are unique"):
            things.add(name, object())


def test_an_unknown_name_names_the_known_ones(things):
    things.register(Bell)
    with pytest.raises(UnknownNameError, match="did you mean 'bell'"):
        things.get("bel")


def test_a_class_is_registered_once_and_another_of_its_name_is_refused(things):
    bell = things.register(Bell)
    assert isinstance(bell, Bell) and things.register(Bell) is bell is things.get("bell")
    with pytest.raises(UserError, match="thing names are unique; received 'bell'"):
        things.register(type("Other", (Drum,), {"name": "bell"}))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (int, f"a thing derives from {__name__}.Thing; received int"),
        (type("Mute", (Thing,), {"name": "mute"}), "a thing defines use; received Mute without it"),
        (type("Loud", (Bell,), {"name": "Loud Bell"}), "the name of a thing is snake_case; received 'Loud Bell'"),
        (type("Odd", (Bell,), {"__init__": lambda self, size: None}), "a thing is made without arguments"),
        (type("Grey", (Bell,), {"colour": "grey"}), "a thing is not grey; received grey; correct here"),
    ],
)
def test_a_class_that_breaks_the_contract_is_one_clear_line(broken, message):
    def check(found, where):
        if found.colour == "grey":
            raise UserError("a thing is not grey", "grey", f"correct {where}")

    with pytest.raises(UserError) as caught:
        Registry("thing", None, base=Thing, declares=("colour",), check=check).register(broken, "here")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_what_a_class_must_declare_is_named():
    with pytest.raises(UserError, match="a thing declares name, colour, size; received no size"):
        Registry("thing", None, base=Thing, declares=("colour", "size")).register(Bell)


def test_a_part_of_a_plug_in_is_held_under_the_name_of_the_whole():
    class Orchestra:
        name, colour, instrument = "orchestra", "black", Drum

    parts = Registry("thing", None, base=Thing, part="instrument")
    assert isinstance(parts.register(Orchestra), Drum) and parts.names() == ["orchestra"]
    with pytest.raises(UserError, match="a thing derives from"):
        parts.register(Bell)


def test_a_plug_in_of_a_file_or_a_module_is_loaded_and_its_place_is_known(things, tmp_path, monkeypatch):
    source = "import test_registry\nclass Mine(test_registry.Bell):\n    name = '{}'\n"
    (tmp_path / "mine.py").write_text(source.format("of_file"))
    (tmp_path / "of_path.py").write_text(source.format("of_module"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "test_registry", sys.modules[__name__])
    mine = things.load("mine.py:Mine", tmp_path)
    assert mine.name == "of_file" and things.load(f"{tmp_path}/mine.py:Mine") is mine
    assert things.load("of_path:Mine").name == "of_module"
    assert things.reference("of_file") == f"{tmp_path}/mine.py:Mine" and things.reference("of_module") == "of_path:Mine"
    things.register(Bell)
    assert things.reference("bell") is None


def test_plug_ins_of_installed_packages_are_found_and_made(things, entry_points):
    entry_points += [Point("bell", Bell), Point("drum", Drum)]
    assert things.names() == ["bell", "drum"] and things.installed == {"bell", "drum"}
    assert isinstance(things.get("bell"), Bell) and things.get("bell") is things.get("bell")


def test_plug_ins_of_installed_packages_are_held_to_the_contract(things, entry_points):
    entry_points += [Point("bell", Bell), Point("number", int), Point("horn", Drum)]
    assert things.get("bell").colour == "brass"
    with pytest.raises(UserError, match=r"a thing derives from .*; received int; correct the plug-in 'number'"):
        things.get("number")
    with pytest.raises(UserError, match="an entry point has the name of its thing; received 'horn' for 'drum'"):
        things.get("horn")


def test_a_plug_in_of_a_package_cannot_replace_ours(entry_points, listed):
    things = Registry("thing", "sousvit.things", listed[0])
    entry_points.append(Point("alpha", Bell))
    for _ in range(2):
        with pytest.raises(UserError, match="unique"):
            things.names()
    assert things.get("alpha").name == "alpha"


def test_a_plug_in_of_a_file_cannot_replace_one_of_a_package(things, entry_points):
    entry_points.append(Point("bell", Bell))
    with pytest.raises(UserError, match="unique"):
        things.add("bell", Bell())
    assert things.add("bell", things.get("bell")).colour == "brass"


def test_two_plug_ins_of_one_name_are_refused(things, entry_points):
    entry_points += [Point("bell", Bell), Point("bell", Drum)]
    with pytest.raises(UserError, match="unique"):
        things.names()


def test_a_broken_plug_in_is_told_at_every_look_up_and_ours_still_work(things, entry_points):
    entry_points += [Point("bell", Bell), Point("bad", ImportError("no module named that"))]
    things.register(Drum)
    for _ in range(2):
        with pytest.raises(UserError, match="thing plug-in 'bad' must import; received ImportError: no module"):
            list(things)
    assert things.get("drum").use() == "booms" and things.get("bell").use() == "rings"
    assert things.names() == ["bad", "bell", "drum"]


def test_a_class_is_loaded_from_a_file_relative_to_the_folder(tmp_path):
    (tmp_path / "mine.py").write_text("class Mine:\n    value = 5\n")
    found = load_class("mine.py:Mine", "objective", tmp_path)
    assert found.value == 5
    assert load_class(f"{tmp_path}/mine.py:Mine", "objective") is found, "loaded once"


def test_a_plug_in_may_hold_dataclasses_with_postponed_annotations(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Mine:\n    a: int = 1\n"
    )
    assert load_class("mine.py:Mine", "objective", tmp_path)().a == 1


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("mine.py", "is named file.py:ClassName or package.module:ClassName"),
        ("mine.py:not a name", "is named file.py:ClassName or package.module:ClassName"),
        (":Mine", "is named file.py:ClassName or package.module:ClassName"),
        ("absent.py:Mine", "must be an existing .py file"),
        ("./mine.txt:Mine", "must be an existing .py file"),
        ("mine.txt:Mine", "must import; received ModuleNotFoundError"),
        ("no_such_package.mine:Mine", "must import; received ModuleNotFoundError"),
        ("math:Mine", "must hold its class; received 'Mine'"),
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
        load_class(reference, "objective", tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_repaired_file_loads_after_a_failure(tmp_path):
    (tmp_path / "mine.py").write_text("1 / 0\n")
    with pytest.raises(UserError):
        load_class("mine.py:Mine", "objective", tmp_path)
    (tmp_path / "mine.py").write_text("class Mine: ...  # repaired\n")
    assert load_class("mine.py:Mine", "objective", tmp_path).__name__ == "Mine"


def test_what_is_on_trial_is_registered_meanwhile_and_forgotten_afterwards(things):
    with on_trial(Bell, things) as bell:
        assert isinstance(bell, Bell) and things.get("bell") is bell
    assert things.names() == []
    with on_trial(mine := Bell(), things) as bell:
        assert bell is mine is things.get("bell")
    assert things.names() == []


def test_what_is_registered_already_is_tried_as_it_is_and_stays(things):
    first = things.register(Bell)
    with on_trial(Bell, things) as bell:
        assert bell is first
    with on_trial(other := Bell(), things) as bell:
        assert bell is other is things.get("bell")
    assert things.get("bell") is first


def test_ours_are_tried_as_they_are(listed):
    things = Registry("thing", None, listed[0])
    with on_trial(type(things.get("alpha")), things) as alpha:
        assert alpha is things.get("alpha")


@pytest.mark.parametrize(
    ("kind", "words"),
    [(type("Other", (Drum,), {"name": "bell"}), "thing names are unique"), (int, "derives from")],
)
def test_what_cannot_be_registered_fails_its_trial_and_leaves_no_trace(kind, words, things):
    first = things.register(Bell)
    with pytest.raises(AssertionError, match=words), on_trial(kind, things):
        pass
    assert list(things) == [first]
