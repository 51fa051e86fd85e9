"""Opens files that may be hostile in a process of its own, and says what that cost: seconds, memory, words.

As a program it reads what to open from its standard input, and writes a line of JSON for each. So a hang, a crash or a
filled memory ends that process, and the test that started it says for which file.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.watched import EndedError, lines_of

#: What one file may cost: seconds of the processor, and memory on top of what the libraries take.
MOST_SECONDS, MOST_MB = 5.0, 1000
#: Told in the place of an error's kind.
OPENED = "opened"


@dataclass(frozen=True)
class Outcome:
    """What opening one file gave.

    Attributes:
        kind: of the error, or ``opened``.
        said: the message.
        seconds: of the processor.
        grown_mb: memory that the process took for it, at most.
    """

    name: str
    kind: str
    said: str
    seconds: float
    grown_mb: float

    @property
    def fault(self) -> str:
        """What is wrong with it, or nothing."""
        if self.kind not in (OPENED, "UserError", "SharedInputError", "UnknownNameError"):
            return f"{self.name}: {self.kind}: {self.said}"
        if "\n" in self.said or len(self.said) > 2500:
            return f"{self.name}: {len(self.said)} letters: {self.said[:200]!r}"
        if self.seconds > MOST_SECONDS or self.grown_mb > MOST_MB:
            return f"{self.name}: {self.seconds:.1f} s, {self.grown_mb:.0f} MB: {self.said[:200]}"
        return ""


def outcomes(tasks: list[dict], silence: float = 60) -> Iterator[Outcome]:
    """What opening each of ``tasks`` gave, as it comes, see :func:`_run`.

    Raises:
        EndedError: the process died or hung at the file that it names.
    """
    last = "nothing"
    try:
        for line in lines_of([sys.executable, "-m", "tests.hostile"], silence, json.dumps(tasks)):
            told = json.loads(line) if line.startswith("{") else {}
            last = told.get("name", last)
            if "kind" in told:
                yield Outcome(**told)
    except EndedError as error:
        raise EndedError(f"{last}: {error}") from None


def open_data(place: str, format: str | None = None, labelled: bool = True) -> None:
    """A part of a data set and some of its images."""
    from sousvit.data.formats.joined import open_part
    from sousvit.data.numbering import content_of
    from sousvit.specs import DataSpec

    source = open_part(DataSpec(train=place, format=format), "train", [place], labelled)
    for row in range(min(3, len(source.labels))):
        content_of(source, row)
        source.read(row)


def open_checkpoint(place: str) -> None:
    """A checkpoint and its tensors."""
    from sousvit.models.checkpoints.forms import open_source

    open_source(place).tensors()


def open_table(place: str) -> None:
    """A recorded table and what is compared of it."""
    from sousvit.search.replay.table import Table

    Table.read(Path(place)).points()


def open_image(place: str) -> None:
    """One image, at the size of a model."""
    from sousvit.data.source import decode_file
    from sousvit.models.preprocess import Preprocess

    image = decode_file(Path(place))
    try:
        Preprocess().fit(image, (224, 224), 3)
    except ValueError as error:
        from sousvit.errors import UserError

        raise UserError("every image suits the model", error) from error  # as ImageSet says it


OPENERS = {"data": open_data, "checkpoint": open_checkpoint, "table": open_table, "image": open_image}


def _run(task: dict) -> None:
    """One task: ``opener`` with ``place`` and ``options``; with ``root``, a file below it is changed, by ``seed``."""
    if "root" not in task:
        _tell(task["name"], task["opener"], task["place"], task.get("options", {}))
        return
    chance, folder = random.Random(task["seed"]), Path(task["root"])
    file = chance.choice(sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file()))
    with tempfile.TemporaryDirectory() as work:
        copy = Path(work) / "copy"
        shutil.copytree(folder, copy)
        how, changed = mutated((folder / file).read_bytes(), chance)
        (copy / file).write_bytes(changed)
        place = copy / Path(task["place"]).relative_to(folder)
        _tell(f"{task['name']}: {how} of {file}", task["opener"], str(place), task["options"])


def mutated(content: bytes, chance: random.Random) -> tuple[str, bytes]:
    """Content with some bytes changed, cut, or with a number inflated; and how."""
    how = chance.choice(("flips", "cut", "number", "digits", "swap"))
    data, place = bytearray(content), chance.randrange(max(1, len(content)))
    # Descriptions lie at either end of most formats, and decide more than the pixels between them.
    if chance.random() < 0.6:
        near = min(len(content), 400)
        place = chance.choice((chance.randrange(max(1, near)), len(content) - 1 - chance.randrange(max(1, near))))
    place = max(0, place)
    if how == "cut":
        return f"cut at {place}", bytes(data[:place])
    if how == "digits" and (numbers := list(re.finditer(rb"\d+", content))):
        found = chance.choice(numbers)
        other = chance.choice(
            (b"-1", b"0", b"1e999", b"NaN", b"9" * 12, b"9" * 400, b"9" * 5000, b"null", b'"x"', b"[]")
        )
        return f"{other[:12]!r} at {found.start()}", content[: found.start()] + other + content[found.end() :]
    if how == "number":
        width = chance.choice((2, 4, 8))
        other = chance.choice(
            (b"\xff" * width, b"\x7f" + b"\xff" * (width - 1), b"\xff" * (width - 1) + b"\x7f", bytes(width))
        )
        data[place : place + width] = other
        return f"{other!r} at {place}", bytes(data)
    if how == "swap":
        other_place = chance.randrange(max(1, len(content)))
        data[place : place + 16], data[other_place : other_place + 16] = (
            content[other_place : other_place + 16],
            content[place : place + 16],
        )
        return f"swap of {place} and {other_place}", bytes(data)
    for _ in range(chance.randint(1, 3)):
        if data:
            data[min(len(data) - 1, place + chance.randrange(8))] ^= 1 << chance.randrange(8)
    return f"flips at {place}", bytes(data)


def _tell(name: str, opener: str, place: str, options: dict) -> None:
    """Open a file, and print before and after it."""
    print(json.dumps({"name": name}), flush=True)
    print(json.dumps(_tried(name, opener, place, options)), flush=True)


def _tried(name: str, opener: str, place: str, options: dict) -> dict:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, start = _megabytes("VmRSS"), time.process_time()
    try:
        OPENERS[opener](place, **options)
        kind, said = OPENED, ""
    except BaseException as error:
        kind, said = type(error).__name__, str(error)
    seconds, grown = time.process_time() - start, _megabytes("VmHWM") - before
    return {"name": name, "kind": kind, "said": said[:4000], "seconds": seconds, "grown_mb": grown}


def _megabytes(figure: str) -> float:
    """What the process takes now (``VmRSS``), or took at most (``VmHWM``)."""
    return int(re.search(rf"{figure}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    given = json.load(sys.stdin)
    import timm  # noqa: F401 - what is measured is the opening, and not the libraries
    import torch

    import sousvit.data.splits
    import sousvit.models.load
    import sousvit.search.replay.table  # noqa: F401

    torch.set_num_threads(1)
    for one in given:
        _run(one)
