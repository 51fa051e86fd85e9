"""Mutations of every file of a finished run: the same answer or a damage that is told in a line, never anything else.

Flipped bits, cuts, deleted, doubled and swapped lines, and other types in the place of values; the seed is fixed.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import sousvit
from sousvit.errors import UserError
from sousvit.runs import list_runs
from sousvit.search.identity import INPUTS_FILE, changed_beside
from sousvit.search.judging.build import RecipeFile
from sousvit.search.results import Answer
from sousvit.search.stored.lines import sealed_line

#: A small search that trains nothing.
SPACE = {"techniques": {"prune_mlp": {}, "prune_depth": {}, "int8_dynamic": {}}}
SEARCH = {"search": {"trials": 8}, "space": SPACE, "limits": {"accuracy_drop": 0.3, "latency_ratio": 0.9}}
ASKED = {"limits": {"size_ratio": 0.8}, "optimize": ["size", "latency"]}
#: Mutations of each kind, by file.
COUNTS = {"events.jsonl": 8, "answer.json": 5, "budget.yaml": 4, "recipe.yaml": 4, INPUTS_FILE: 4}
OTHER_VALUES = ("x", None, float("nan"), float("inf"), -1, 10**30, True, [], {}, [[]], "\0")


def flip(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def delete_line(data: bytes, chance: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    del lines[chance.randrange(len(lines))]
    return b"".join(lines)


def double_line(data: bytes, chance: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    place = chance.randrange(len(lines))
    return b"".join([*lines[: place + 1], *lines[place:]])


def swap_lines(data: bytes, chance: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"".join(lines)


def change_type(data: bytes, chance: random.Random) -> bytes:
    """Another value in the place of one, everything else as it was (checksums too)."""
    text = data.decode()
    if text.startswith("#"):
        head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
        return (head + yaml.safe_dump(with_other_value(yaml.safe_load(text), chance), sort_keys=False)).encode()
    lines = text.splitlines(keepends=True)
    if not is_json(lines[0]):
        return json.dumps(with_other_value(json.loads(text), chance), indent=1).encode()
    place = chance.randrange(len(lines))
    lines[place] = json.dumps(with_other_value(json.loads(lines[place]), chance), separators=(",", ":")) + "\n"
    return "".join(lines).encode()


def is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def places_of(value: Any, parent: Any = None, key: Any = None) -> Iterator[tuple[Any, Any]]:
    """Every container with a key or position in it."""
    if parent is not None:
        yield parent, key
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in entries:
        yield from places_of(entry, value, name)


def with_other_value(value: Any, chance: random.Random) -> Any:
    places = list(places_of(value))
    if places:
        parent, key = chance.choice(places)
        parent[key] = chance.choice(OTHER_VALUES)
    return value


def forge(data: bytes, chance: random.Random) -> bytes:
    """Another value in an event, with a checksum that is right: only the values can show it."""
    lines = data.splitlines(keepends=True)
    place = chance.randrange(len(lines))
    plain = json.loads(lines[place])
    number = plain.pop("line")
    plain.pop("crc")
    lines[place] = sealed_line(with_other_value(plain, chance), number)
    return b"".join(lines)


KINDS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "flip": flip,
    "cut": cut,
    "delete": delete_line,
    "double": double_line,
    "swap": swap_lines,
    "type": change_type,
}
CASES = [(file, kind) for file in COUNTS for kind in KINDS]


@pytest.fixture(scope="module")
def finished(simulated_search, tmp_path_factory) -> Path:
    """A finished run, with data that lies there."""
    home = tmp_path_factory.mktemp("home")
    for name in ("train", "test"):
        (home / f"{name}-images").write_bytes(b"images")
    folder = home / "runs" / "one"
    answer, told = simulated_search(folder, **asked(folder))
    assert answer.feasible and not any("damaged" in line for line in told)
    assert {path.name for path in folder.iterdir()} >= {*COUNTS, "study.journal"}
    return folder


def asked(folder: Path) -> dict[str, Any]:
    data = {"format": "idx", **{part: str(folder.parents[1] / f"{part}-images") for part in ("train", "test")}}
    return {"data": data, **SEARCH}


def essence(answer: Answer) -> Any:
    """What an answer says, without its notes."""
    plain = {**answer.to_dict(), "notes": [], "cost": {}}
    return json.dumps(plain, sort_keys=True)


def outcome(folder: Path) -> tuple[Any, list[str]]:
    """What a run answers, and what is told of damage."""
    try:
        run = sousvit.open_run(folder)
        found = [] if run.result is None else [essence(run.result.answer)]
        found += [essence(run.answer(**ASKED).answer), str(len(run.trials))]
        return found, [*run.damaged, *run.changed]
    except UserError as error:
        return None, [str(error)]


def mutants(folder: Path, file: str, kind: Callable[[bytes, random.Random], bytes], seed: str) -> Iterator[str]:
    """Write mutants of a run's file; yields a word on each, and puts the file back."""
    path, chance = folder / file, random.Random(f"{seed} {file}")
    whole = path.read_bytes()
    for number in range(COUNTS[file]):
        changed = kind(whole, chance)
        if changed != whole:
            path.write_bytes(changed)
            yield f"{file} {kind.__name__} {number}"
    path.write_bytes(whole)


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    folder = tmp_path / "runs" / "one"
    shutil.copytree(finished, folder)
    return folder


@pytest.mark.parametrize(("file", "kind"), CASES)
def test_a_damaged_run_gives_the_same_answer_or_says_what_is_damaged(file, kind, copy, capsys):
    expected, told = outcome(copy)
    assert expected is not None and not told
    for word in mutants(copy, file, KINDS[kind], kind):
        if file == "recipe.yaml":
            assert_told_of_recipe(copy / file, word)
            continue
        found, told = outcome(copy)
        assert told or found == expected, f"{word}: another answer without a word"
        assert all("\n" not in line for line in told), word
        assert [row["name"] for row in list_runs(copy.parent)] == ["one"], word
    assert "Traceback" not in capsys.readouterr().err


def assert_told_of_recipe(path: Path, word: str) -> None:
    """A recipe file says itself that it was changed."""
    whole = yaml.safe_load((path.parent / "answer.json").read_text())["recipe"]["recipe"]
    try:
        told, found = changed_beside(path), RecipeFile.read(path)
        assert told or found.recipe.to_dict() == whole, word
    except UserError as error:
        assert "\n" not in str(error), word


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", ["events.jsonl", "answer.json", INPUTS_FILE])
def test_a_damaged_run_goes_on_to_the_same_answer_or_says_what_is_damaged(
    file, kind, finished, tmp_path, simulated_search
):
    expected, _ = simulated_search(finished, **asked(finished))
    chance = random.Random(f"resume {kind} {file}")
    for number in range(2):
        folder = tmp_path / str(number) / "one"
        shutil.copytree(finished, folder)
        path = folder / file
        path.write_bytes(KINDS[kind](path.read_bytes(), chance))
        try:
            found, told = simulated_search(folder, **asked(finished))
        except UserError as error:
            assert "\n" not in str(error)
            continue
        is_told = any(line.startswith("damaged: ") for line in told)
        assert is_told or essence(found) == essence(expected), f"{file} {kind} {number}"
        if file != "events.jsonl":
            assert essence(found) == essence(expected), f"{file} {kind} {number}: made again"
            assert not outcome(folder)[1], "what was damaged is mended"


@pytest.mark.parametrize("part", range(4))
def test_values_that_cannot_be_are_told_even_with_a_right_checksum(part, copy):
    path, whole, chance = copy / "events.jsonl", (copy / "events.jsonl").read_bytes(), random.Random(part)
    for _ in range(8):
        path.write_bytes(forge(whole, chance))
        _, told = outcome(copy)  # no traceback; a value that could be as well is nobody's to notice
        assert all("\n" not in line for line in told)
