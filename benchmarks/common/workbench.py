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

import sousvit

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
    """The base with its data, and the base's exported graph."""

    workshop: sousvit.Workshop
    exported: sousvit.Artifact
    limit_validation: int | None

    @classmethod
    def open(cls, given: argparse.Namespace) -> Workbench:
        """Load and export the base into ``OUT/base``; no image of the test split is decoded."""
        workshop = open_workshop(given.model, given.data)
        return cls(workshop, workshop.export(given.out / "base"), given.limit_validation)

    def validation(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised float32 ``[N, C, H, W]``, and labels."""
        return self.workshop.images("validation", self.limit_validation)

    def calibration(self, count: int) -> np.ndarray:
        """So many training images, normalised."""
        return self.workshop.images("train", count)[0].numpy()

    def top1(self, judged: sousvit.Artifact | nn.Module) -> float:
        """On validation: of an artifact in its runtime, of a module in PyTorch."""
        return self.workshop.evaluate(judged, "validation", limit=self.limit_validation).merit()[0]

    def describe(self, folder: Path, runtime: str, file: str) -> sousvit.Artifact:
        """Say what the model file that a tool wrote into ``folder`` is, so that sousvit can run it.

        Some quantize each batch by its own range, so all are judged image by image, as they are timed.
        """
        known = self.exported
        described = (folder, runtime, file, known.input_shape, known.mean, known.std)
        return sousvit.Artifact(*described, batch_dependent=True).save()


def open_workshop(model: Path, data: Path) -> sousvit.Workshop:
    """The base model and CIFAR-10."""
    files = {part: str((data / f"{part}.parquet").resolve()) for part in ("train", "test")}
    return sousvit.Workshop(model, train={"format": "parquet", **files, "validation": {"last": HELD_OUT}})


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
    torch.set_num_threads(sousvit.machine_facts()["cores"])
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
