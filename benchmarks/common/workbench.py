"""The workbench of the drivers of other tools: arguments, the base they all start from, and what they leave.

A driver is a function ``work(given)`` that gives an :class:`Answer`. :func:`drive` runs it in a process of its own
until its minutes are over (a tool without a time limit is killed then) and writes into ``OUT``:

- ``base/``: the base as ONNX float32, by sousvit's exporter: what every tool starts from;
- ``artifact/``: what the tool made, described as a sousvit artifact; missing where it made nothing;
- ``facts.json``: tool, versions, seconds spent (data, base and export included), what was asked and answered.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import nn

from sousvit.data import ImageSet, Splits
from sousvit.machine import available_cores
from sousvit.models.load import LoadedModel, load
from sousvit.spaces.context import Context
from sousvit.spaces.export.artifact import Artifact
from sousvit.spaces.export.export import make_artifact
from sousvit.specs import DataSpec, LastRows, ModelSpec

#: The last rows of the training file are validation, as in sousvit's own benchmarks.
HELD_OUT = 5000
#: Every tool is asked for this: top-1 on validation at most so much below the base's.
MAX_DROP = 0.01
ARTIFACT, FACTS = "artifact", "facts.json"


@dataclass
class Answer:
    """What a tool was asked and what it answered; ``notes`` are sentences for a reader of the table."""

    asked: dict[str, Any]
    answered: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


Work = Callable[[argparse.Namespace], Answer]


@dataclass(frozen=True)
class Workbench:
    """The base, its data, and the base's exported graph."""

    base: LoadedModel
    splits: Splits
    validation: ImageSet
    exported: Artifact

    @classmethod
    def open(cls, given: argparse.Namespace) -> Workbench:
        """Load and export the base into ``OUT/base``; the test split is not opened."""
        base, splits = open_subject(given.model, given.data)
        validation = splits.validation
        if given.limit_validation is not None:
            validation = validation.spread(given.limit_validation)
        return cls(base, splits, validation, export(base, base.module, given.out / "base"))

    def inputs(self, images: ImageSet) -> np.ndarray:
        """Normalised float32 ``[N, C, H, W]``."""
        return self.base.normalise(images.images()).numpy()

    def describe(self, folder: Path, runtime: str, file: str) -> Artifact:
        """Say what the model file that a tool wrote into ``folder`` is, so that sousvit can run it."""
        known = self.exported
        return Artifact(folder, runtime, file, known.input_shape, known.mean, known.std).save()


def open_subject(model: Path, data: Path) -> tuple[LoadedModel, Splits]:
    """The base model and CIFAR-10."""
    base = load(ModelSpec(checkpoint=str(model.resolve())).resolved(Path()))
    files = {part: str((data / f"{part}.parquet").resolve()) for part in ("train", "test")}
    spec = DataSpec(format="parquet", **files, validation=LastRows(last=HELD_OUT))
    return base, Splits(spec, base.size, base.channels)


def export(base: LoadedModel, module: nn.Module, folder: Path) -> Artifact:
    """The base, or what a tool made of its module, as ONNX float32."""
    shape = (1, base.channels, *base.size)
    return make_artifact(module, shape, base.mean, base.std, "onnxruntime", None, Context(base.normalise), folder)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What every driver takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.parquet and test.parquet")
    parser.add_argument("--model", type=Path, required=True, help="the base, as sousvit train writes it")
    parser.add_argument("--minutes", type=float, required=True, help="wall time, everything included")
    parser.add_argument("--out", type=Path, required=True, help="a new folder, or one of the same driver")
    parser.add_argument("--limit-validation", type=int, help="so many validation images only: for a trial run")
    return parser


def drive(tool: str, work: Work, given: argparse.Namespace, packages: tuple[str, ...], grace: float = 1.0) -> int:
    """Run ``work`` for ``given.minutes`` and write what came of it; the exit code.

    Args:
        packages: whose versions are noted, the tool's first.
        grace: times the minutes, until when a tool with a time limit of its own may finish its last step.
    """
    given.out.mkdir(parents=True, exist_ok=True)
    given.started = psutil.Process().create_time()
    given.deadline = given.started + 60 * given.minutes
    shutil.rmtree(given.out / ARTIFACT, ignore_errors=True)
    (given.out / FACTS).unlink(missing_ok=True)
    # Forked, so that what is imported already is not paid for twice; nothing has computed yet, so no threads are lost.
    process = multiprocessing.get_context("fork").Process(target=_run, args=(tool, work, given, packages))
    process.start()
    process.join(given.started + 60 * given.minutes * grace - time.time())
    if process.is_alive():
        process.kill()
        process.join()
        shutil.rmtree(given.out / ARTIFACT, ignore_errors=True)
        leave(tool, given, packages, Answer({}, notes=["killed when its time was over: no answer"]))
    if not (given.out / FACTS).exists():
        print(f"{tool} ended with exit code {process.exitcode} and no answer", file=sys.stderr)
        return 1
    print((given.out / FACTS).read_text())
    return 0


def _run(tool: str, work: Work, given: argparse.Namespace, packages: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(available_cores())
    leave(tool, given, packages, work(given))


def leave(tool: str, given: argparse.Namespace, packages: tuple[str, ...], answer: Answer) -> None:
    """Write ``facts.json``."""
    facts = {
        "tool": tool,
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "date": time.strftime("%Y-%m-%d"),
        "minutes": given.minutes,
        "seconds": round(time.time() - given.started, 1),
        "limit_validation": given.limit_validation,
        "artifact": (given.out / ARTIFACT).is_dir(),
        **asdict(answer),
    }
    (given.out / FACTS).write_text(json.dumps(facts, indent=1, default=str))
