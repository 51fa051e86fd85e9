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
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

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


def outcomes(tasks: list[dict], timeout: float = 120) -> list[Outcome]:
    """What opening each of ``tasks`` gave, see :func:`_run`; fewer than there are where the process died."""
    command = [sys.executable, __file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            out, err = process.communicate(json.dumps(tasks).encode(), timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            err += f"\nended after {timeout:.0f} s".encode()
    lines = [json.loads(line) for line in out.splitlines() if line.startswith(b"{")]
    found = [Outcome(**line) for line in lines if "kind" in line]
    if process.returncode:
        last = lines[-1]["name"] if lines else "nothing"
        raise AssertionError(f"the process ended with {process.returncode} at {last}: {err.decode()[-2000:]}")
    return found


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
    """One task: ``opener`` with ``place`` and ``options``; or ``count`` mutations of the files below ``root``."""
    if "count" not in task:
        print(json.dumps(_tried(task["name"], task["opener"], task["place"], task.get("options", {}))), flush=True)
        return
    chance, place, folder = random.Random(task["seed"]), Path(task["place"]), Path(task["root"])
    files = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    with tempfile.TemporaryDirectory() as work:
        copy = Path(work) / "copy"
        shutil.copytree(folder, copy)
        for number in range(task["count"]):
            file = chance.choice(files)
            content = (folder / file).read_bytes()
            how, changed = mutated(content, chance)
            (copy / file).write_bytes(changed)
            name = f"{task['name']} {number}: {how} of {file}"
            print(json.dumps({"name": name}), flush=True)
            print(json.dumps(_tried(name, task["opener"], str(copy / place.relative_to(folder)), task["options"])))
            (copy / file).write_bytes(content)


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
    sys.path.pop(0)  # this folder, in which tests of ours are called like what they test
    os.environ["OMP_NUM_THREADS"] = "1"
    given = json.load(sys.stdin)
    import timm  # noqa: F401 - what is measured is the opening, and not the libraries
    import torch

    import sousvit.data.splits
    import sousvit.models.load
    import sousvit.search.replay.table  # noqa: F401

    torch.set_num_threads(1)
    for one in given:
        print(json.dumps({"name": one["name"]}), flush=True)
        _run(one)
