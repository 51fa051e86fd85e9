"""Artifacts of others, opened as ``sousvit measure`` does: damaged ones of every runtime, and those that mean harm.

Each is measured or refused in one line, within a minute; nothing in it runs, and nothing is written for it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from unittest.mock import patch

import sousvit
from sousvit.errors import MissingPackageError, UserError
from sousvit.objectives.runtimes import BUILTIN
from sousvit.objectives.runtimes.runtime import get_runtime
from sousvit.objectives.targets.target import Target
from sousvit.objectives.timing import TimingPlan
from sousvit.spaces.conformance import exported, tiny_context, tiny_vit
from sousvit.spaces.export.artifact import DESCRIPTION, Artifact
from sousvit.spaces.recipe import Recipe
from tests.campaign.outcome import Outcome, chance_of, fault_of
from tests.campaign.run_files import with_other_value
from tests.hostile import mutated
from tests.objectives.hostile_artifacts import ONNX_ATTACKS, TORCH_ATTACKS, rezipped

#: Seconds that a measurement may take, and with opening it before and after.
TIMEOUT, LONGEST = 20.0, 60.0
#: Of the memory of the machine: enough for what is measured here.
MOST_MEMORY = 0.1
#: Every so many is one of those that mean harm.
NAMED = 3


class Honest:
    """Artifacts of a tiny Vision Transformer, made when they are first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, runtime: str) -> Artifact:
        folder = self._folder / runtime
        if not folder.exists():
            exported(tiny_vit(1), Recipe((), runtime), tiny_context(), folder)
        return Artifact.open(folder)


def installed() -> list[str]:
    """The runtimes that are, browsers' apart: those open nothing here."""
    found = []
    for name in [name for name in BUILTIN if not get_runtime(name).files_of]:
        try:
            get_runtime(name).require()
        except MissingPackageError:
            continue
        found.append(name)
    return sorted(found, key=["onnxruntime", "openvino", "torch", "litert"].index)


def attacks(numbers: range, seed: int) -> Iterator[Outcome]:
    """In turns one that means harm, and damaged ones of the runtimes."""
    runtimes = installed()
    named = [*ONNX_ATTACKS, *(TORCH_ATTACKS if "torch" in runtimes else ())]
    with (
        tempfile.TemporaryDirectory() as work,
        patch("sousvit.search.judging.measure.CAREFUL", TimingPlan.of(0.1)),
        patch("sousvit.objectives.devices.process.MOST_MEMORY", MOST_MEMORY),
    ):
        honest = Honest(Path(work, "honest"))
        for number in numbers:
            place = Path(work, str(number))
            turn, is_mutant = divmod(number, NAMED)
            if is_mutant:
                runtime = runtimes[(turn * (NAMED - 1) + is_mutant - 1) % len(runtimes)]
                yield _damaged(honest[runtime], place, chance_of(seed, number))
            else:
                yield _hostile(named[turn % len(named)], honest, place)
            shutil.rmtree(place)


def _hostile(name: str, honest: Honest, place: Path) -> Outcome:
    mark = place / "mark"
    if name in ONNX_ATTACKS:
        ONNX_ATTACKS[name](place / "artifact", mark)
        kind, fault = "artifact that means harm, ONNX", _fault_of(place / "artifact")
        fault = "it was measured" if fault == MEASURED else fault
    else:
        TORCH_ATTACKS[name](honest["torch"], place / "artifact", mark)
        kind, fault = "artifact that means harm, PyTorch", _fault_of(place / "artifact").removeprefix(MEASURED)
    if mark.exists():
        fault = "its code ran"
    return Outcome(kind, f"{fault}: {name}" if fault else "")


def _damaged(honest: Artifact, place: Path, chance: Random) -> Outcome:
    folder = place / "artifact"
    shutil.copytree(honest.folder, folder)
    how = _damage(honest, folder, chance)
    fault = _fault_of(folder).removeprefix(MEASURED)
    return Outcome(f"damaged artifact, {honest.runtime}", f"{fault}: {how}" if fault else "")


def _damage(honest: Artifact, folder: Path, chance: Random) -> str:
    """Change a file of an artifact; what was done."""
    # Mostly the model: the description is one small file beside it.
    files = sorted(path.name for path in folder.iterdir())
    name = chance.choice([*files, *[file for file in files if file != DESCRIPTION] * 3])
    path = folder / name
    if name == DESCRIPTION and chance.random() < 0.5:
        path.write_text(json.dumps(with_other_value(json.loads(path.read_text()), chance)))
        return f"type changed in {name}: {path.read_text()!r}"
    if zipfile.is_zipfile(path) and chance.random() < 0.7:  # a part of it, with a checksum that is right
        with zipfile.ZipFile(path) as packed:
            part = chance.choice([one.filename for one in packed.infolist() if one.file_size])
        said = []

        def rewritten(entry: str, content: bytes) -> bytes:
            if entry != part:
                return content
            how, changed = mutated(content, chance)
            said.append(how)
            return changed

        rezipped(honest, folder, rewritten)
        return f"{said[0]} of {part} in {name}"
    how, changed = mutated(path.read_bytes(), chance)
    path.write_bytes(changed)
    return f"{how} of {name}"


#: Said of what was measured.
MEASURED = "measured"


def _fault_of(folder: Path) -> str:
    """What is wrong with how a folder is measured; :data:`MEASURED` where it was, "" where it was refused."""
    begun = time.monotonic()
    try:
        sousvit.measure(folder, target=Target(timeout=TIMEOUT))
        fault = MEASURED
    except UserError as error:
        fault = fault_of(error)
    except Exception as error:
        fault = fault_of(error) or f"{type(error).__name__} is no user's error"
    seconds = time.monotonic() - begun
    return f"it took {seconds:.0f} s" if seconds > LONGEST else fault
