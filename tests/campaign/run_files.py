"""Mutations of every file of a finished run: the same answer or a damage that is told in a line, never anything else.

Flipped bits, cuts, deleted, doubled and swapped lines, and other types in the place of values.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import sousvit
from sousvit.errors import UserError
from sousvit.runs import list_runs
from sousvit.search.identity import changed_beside
from sousvit.search.judging.build import RecipeFile
from sousvit.search.results import Answer
from sousvit.search.stored.lines import sealed_line
from sousvit.spaces.shape import VitShape
from tests.campaign.outcome import Outcome, chance_of, fault_of, fault_of_line
from tests.search.simulation import simulated_search, tiny_shape

#: A small search that trains nothing.
SPACE = {"techniques": {"prune_mlp": {}, "prune_depth": {}, "int8_dynamic": {}}}
SEARCH = {"search": {"trials": 8}, "space": SPACE, "limits": {"accuracy_drop": 0.3, "latency_ratio": 0.9}}
ASKED = {"limits": {"size_ratio": 0.8}, "optimize": ["size", "latency"]}
OTHER_VALUES = ("x", None, float("nan"), float("inf"), -1, 10**30, True, [], {}, [[]], "\0")
#: Of attacked runs, those that a search takes up again.
RESUMED = 0.25
LOG, RECIPE = "events.jsonl", "recipe.yaml"
Mutation = Callable[[bytes, random.Random], bytes]


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


#: Of any file.
MUTATIONS: dict[str, Mutation] = {
    "bits flipped": flip,
    "cut": cut,
    "line deleted": delete_line,
    "line doubled": double_line,
    "lines swapped": swap_lines,
}


def mutations_of(file: str) -> dict[str, Mutation]:
    """What is done to a file of a run."""
    is_text = file.endswith((".json", ".jsonl", ".yaml"))
    forged: dict[str, Mutation] = {"value forged": forge} if file == LOG else {}
    return {**MUTATIONS, **({"type changed": change_type} if is_text else {}), **forged}


@dataclass(frozen=True)
class Finished:
    """A finished run, what it answers, and how it is taken up again."""

    folder: Path
    shape: VitShape
    expected: Any
    answer: str

    @classmethod
    def make(cls, home: Path) -> Finished:
        for name in ("train", "test"):
            (home / f"{name}-images").write_bytes(b"images")
        folder, shape = home / "runs" / "one", tiny_shape()
        answer, said = simulated_search(shape, folder, **_asked(home))
        expected, told = _outcome(folder)
        assert answer.feasible and expected is not None and not told and not any("damaged" in line for line in said)
        return cls(folder, shape, expected, _essence(answer))

    @property
    def files(self) -> list[str]:
        """All that it left."""
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())

    def resumed(self, folder: Path) -> tuple[Answer, list[str]]:
        """The answer of a search that goes on in ``folder``, and what it said."""
        return simulated_search(self.shape, folder, **_asked(self.folder.parents[1]))


def attacks(numbers: range, seed: int) -> Iterator[Outcome]:
    """Every file, with each mutation, in turns."""
    with tempfile.TemporaryDirectory() as home:
        finished = Finished.make(Path(home))
        turns = [(file, how) for file in finished.files for how in mutations_of(file)]
        for number in numbers:
            file, how = turns[number % len(turns)]
            yield Outcome(f"run file, {how}", _finding(finished, file, how, chance_of(seed, number)))


def _finding(finished: Finished, file: str, how: str, chance: random.Random) -> str:
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work, "runs", "one")
        shutil.copytree(finished.folder, folder)
        path = folder / file
        whole = path.read_bytes()
        changed = mutations_of(file)[how](whole, chance)
        path.write_bytes(changed)
        is_same = changed == whole
        try:
            fault = _fault_of_opening(finished, folder, file, is_forged=how == "value forged")
            if not fault and chance.random() < RESUMED:
                fault = _fault_of_resuming(finished, folder, file, is_forged=how == "value forged")
        except Exception as error:
            fault = fault_of(error)
    return f"{fault}: {how} of {file}{' (nothing changed)' if is_same else ''}" if fault else ""


def _fault_of_opening(finished: Finished, folder: Path, file: str, is_forged: bool) -> str:
    found, told = _outcome(folder)
    if bad := next(filter(None, map(fault_of_line, told)), ""):
        return bad
    if not told and found != finished.expected and not is_forged:  # a value that could be is nobody's to notice
        return "another answer without a word"
    if [row["name"] for row in list_runs(folder.parent)] != ["one"]:
        return "the run is not listed"
    return _fault_of_recipe(folder / file) if file == RECIPE else ""


def _fault_of_recipe(path: Path) -> str:
    """A recipe file says itself that it was changed."""
    whole = yaml.safe_load((path.parent / "answer.json").read_text())["recipe"]["recipe"]
    try:
        told, found = changed_beside(path), RecipeFile.read(path)
        return "" if told or found.recipe.to_dict() == whole else "another recipe without a word"
    except UserError as error:
        return fault_of(error)


def _fault_of_resuming(finished: Finished, folder: Path, file: str, is_forged: bool) -> str:
    try:
        answer, told = finished.resumed(folder)
    except UserError as error:
        return fault_of(error)
    if bad := next(filter(None, map(fault_of_line, told)), ""):
        return f"resumed: {bad}"
    is_told = any(line.startswith("damaged: ") for line in told)
    if file == LOG:
        return "" if is_told or is_forged or _essence(answer) == finished.answer else "resumed: another answer"
    if _essence(answer) != finished.answer:
        return "resumed: another answer"
    left = _outcome(folder)[1]
    return f"resumed, and still damaged: {left}" if left else ""


def _asked(home: Path) -> dict[str, Any]:
    data = {"format": "idx", **{part: str(home / f"{part}-images") for part in ("train", "test")}}
    return {"data": data, **SEARCH}


def _essence(answer: Answer) -> str:
    """What an answer says, without its notes."""
    return json.dumps({**answer.to_dict(), "notes": [], "cost": {}}, sort_keys=True)


def _outcome(folder: Path) -> tuple[Any, list[str]]:
    """What a run answers, itself and for another budget, and what is told of damage."""
    try:
        run = sousvit.open_run(folder)
        found = [] if run.result is None else [_essence(run.result.answer)]
        found += [_essence(run.answer(**ASKED).answer), str(len(run.trials))]  # type: ignore[arg-type]
        return found, [*run.damaged, *run.changed]
    except UserError as error:
        return None, [str(error)]
