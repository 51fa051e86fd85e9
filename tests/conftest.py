"""Fixtures of the whole suite: one core, no network, and a tiny project (data, base model, budgets) on disk."""

from __future__ import annotations

import os

# Before torch and the runtimes load: workers started by tests inherit it, and pytest-xdist fills the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
# Ray would have its workers yield to every other process of the machine: minutes where it is busy.
os.environ.setdefault("RAY_worker_niceness", "0")

import io
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from sousvit.data import DataSpec
from sousvit.data.formats.idx import write_idx
from sousvit.objectives.timing import TimingPlan
from sousvit.registry import restored
from sousvit.search.plugins import KINDS, load_plugins
from sousvit.specs import ModelSpec

torch.set_num_threads(1)
#: Of the whole run; none where the system cannot pin a process.
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
XDIST_WORKER = os.environ.get("PYTEST_XDIST_WORKER")


def take_one_core() -> None:
    """Keep a process of pytest-xdist, and all that its tests start, on one core.

    Threads that wait for each other while another test has their core spin, which took as long again as the work.
    """
    if XDIST_WORKER is not None and CORES:
        os.sched_setaffinity(0, {CORES[int(XDIST_WORKER.removeprefix("gw")) % len(CORES)]})


take_one_core()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Judging and applying in a test's own process take all cores, and would leave them to the tests that follow."""
    torch.set_num_threads(1)


@contextmanager
def on_all_cores() -> Iterator[None]:
    """All cores of the run, also for the processes that are started meanwhile."""
    if CORES:
        os.sched_setaffinity(0, CORES)
    try:
        yield
    finally:
        take_one_core()


@pytest.fixture(scope="session")
def all_cores() -> Callable[[], AbstractContextManager[None]]:
    """See :func:`on_all_cores`."""
    return on_all_cores


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What users named is noted in their own state, which is not the tests' business."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


def scratch_registries() -> AbstractContextManager[None]:
    """What is registered in it is gone after it."""
    return restored(*{registry for registries in KINDS.values() for registry in registries})


@pytest.fixture
def measures_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Artifacts are measured for a tenth of a second; for a user it is four, and up to twenty where it is noisy."""
    monkeypatch.setattr("sousvit.search.judging.measure.CAREFUL", TimingPlan.of(0.1))


@pytest.fixture(scope="module", autouse=True)
def plugins_of_other_files_are_forgotten() -> Iterator[None]:
    """Files are run in any order, several in one process."""
    with scratch_registries():
        yield


@pytest.fixture
def forget_plugins() -> Iterator[None]:
    """What the test registers is gone after it."""
    with scratch_registries():
        yield


@pytest.fixture
def file_limit() -> Callable[[int], AbstractContextManager[None]]:
    """Inside, this process and those that it starts write no file longer than so many bytes (``ulimit -f``)."""
    resource = pytest.importorskip("resource")

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


#: A runtime in a file, as a budget's ``plugins`` names it.
TOY_RUNTIME = f"{Path(__file__).parent / 'toy_runtime.py'}:Reference"


@pytest.fixture(scope="module")
def toy_runtime() -> Iterator[str]:
    """The name of a runtime that is registered from a file, for a module's tests."""
    with scratch_registries():
        load_plugins({"runtimes": [TOY_RUNTIME]}, Path())
        yield "reference"


TINY_VIT: dict[str, Any] = {
    "img_size": 16,
    "patch_size": 4,
    "in_chans": 1,
    "embed_dim": 32,
    "depth": 4,
    "num_heads": 4,
    "num_classes": 3,
    "class_token": False,
    "global_pool": "avg",
}


#: Files whose tests take longest: started first, so that no process is left alone with one of them at the end.
LONGEST = ("test_ray_cluster", "test_other_families", "test_executors", "test_random_recipes", "test_conformance",
           "test_local_run", "test_litert", "test_several_targets", "test_deploy", "test_data_free")  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first (``--no-loadscope-reorder`` keeps this order)."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def pattern_images(count: int, seed: int, noise: float = 60.0, size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images ``[N, size, size]`` of three noisy classes (rows, columns, checkerboard); labels ``[N]``."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count).astype(np.uint8)
    row, column = np.mgrid[0:size, 0:size]
    phase = rng.integers(0, 4, (2, count, 1, 1))
    rows = ((row + phase[0]) // 2) % 2
    columns = ((column + phase[1]) // 2) % 2
    clean = np.choose(labels[:, None, None], [rows, columns, rows ^ columns])
    images = 64 + 128 * clean + rng.normal(0, noise, clean.shape)
    return images.clip(0, 255).astype(np.uint8), labels


@dataclass(frozen=True)
class TinyProject:
    """A folder with IDX data, a trained base model, and budgets that use them.

    ``root`` holds ``data/{train,test}-{images,labels}.idx.gz`` and ``base.safetensors``; ``test_top1`` is the
    base's accuracy there.
    """

    root: Path
    test_top1: float

    @property
    def checkpoint(self) -> Path:
        """The base model, described in its own metadata."""
        return self.root / "base.safetensors"

    @property
    def data(self) -> dict[str, Any]:
        """A budget's ``data``, with absolute paths."""
        return tiny_data(self.root)

    def budget(self, **changes: Any) -> dict[str, Any]:
        """A budget as plain values; ``changes`` replace top-level keys."""
        values = {
            "model": {"checkpoint": str(self.checkpoint)},
            "data": self.data,
            "targets": ["local-1-thread"],
            "limits": {"accuracy_drop": 0.5},
            "optimize": ["size"],
            "search": {"trials": 4, "seed": 0},
        }
        return {**values, **changes}

    def write_budget(self, path: Path, **changes: Any) -> Path:
        """Write :meth:`budget` to ``path``."""
        path.write_text(yaml.safe_dump(self.budget(**changes), sort_keys=False))
        return path

    def model_spec(self) -> ModelSpec:
        """The base, resolved."""
        return ModelSpec(checkpoint=str(self.checkpoint)).resolved(self.root)

    def data_spec(self) -> DataSpec:
        """The data, resolved."""
        return DataSpec(**self.data)


def tiny_data(root: Path) -> dict[str, Any]:
    """The ``data`` key of a tiny project at ``root``: 600 training, 100 validation and 200 test images."""
    return {
        "format": "idx",
        "train": str(root / "data" / "train-images.idx.gz"),
        "test": str(root / "data" / "test-images.idx.gz"),
        "validation": {"last": 100},
        "calibration": 64,
    }


def write_tiny_data(root: Path) -> None:
    (root / "data").mkdir()
    for part, count, seed in (("train", 700, 1), ("test", 200, 2)):
        images, labels = pattern_images(count, seed)
        write_idx(root / "data" / f"{part}-images.idx.gz", images)
        write_idx(root / "data" / f"{part}-labels.idx.gz", labels)


@pytest.fixture(scope="session")
def tiny_project(tmp_path_factory: pytest.TempPathFactory) -> TinyProject:
    """Data and a base model trained for a few seconds to clearly more than chance; do not write into its folder."""
    from sousvit.spaces.training.base import TrainingSpec, TrainSpec, train_base

    root = tmp_path_factory.mktemp("tiny")
    write_tiny_data(root)
    spec = TrainSpec(
        model=ModelSpec(name="vit_tiny_patch16_224", args=TINY_VIT, mean=(0.5,), std=(0.27,)),
        data=DataSpec(**tiny_data(root)),
        training=TrainingSpec(epochs=10, learning_rate=2e-2, batch_size=50, augmentation="none", precision="fp32"),
    )
    description = train_base(spec, root / "base.safetensors", say=lambda line: None)
    assert description["validation_top1"] > 0.8, description
    return TinyProject(root, description["test_top1"])


#: A detector of bright and dark squares on images of 48 x 64 pixels.
TINY_DETECTOR: dict[str, Any] = {
    "name": "vit_tiny_patch16_224",
    "args": {
        "img_size": [48, 64],
        "patch_size": 8,
        "embed_dim": 64,
        "depth": 3,
        "num_heads": 4,
        "class_token": False,
        "num_classes": 2,
    },
    "mean": [0.43],
    "std": [0.2],
    "detector": {"channels": 32, "strides": [8, 16], "convs": 1},
}
SQUARES = ("bright", "dark")


def voc_xml(size: tuple[int, int], objects: list[tuple[str, int, int, int, int]]) -> str:
    """A VOC annotation of an image of ``size`` (height, width); objects are (name, x1, y1, x2, y2), counted from 0."""
    found = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax>"
        f"<ymax>{y2}</ymax></bndbox></object>"
        for name, x1, y1, x2, y2 in objects
    )
    return f"<annotation><size><width>{size[1]}</width><height>{size[0]}</height></size>{found}</annotation>"


def square_scene(rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[str, int, int, int, int]]]:
    """A noisy image ``[48, 64, 3]`` with at most one square in each half, and the squares."""
    image, objects = rng.normal(110, 12, (48, 64, 3)), []
    for half in range(2):
        if rng.uniform() < 0.2:
            continue
        side, label = int(rng.integers(12, 24)), int(rng.integers(2))
        x, y = int(rng.integers(0, 32 - side)) + 32 * half, int(rng.integers(0, 48 - side))
        image[y : y + side, x : x + side] += (70, -70)[label]
        objects.append((SQUARES[label], x, y, x + side, y + side))
    return image.clip(0, 255).astype(np.uint8), objects


def write_squares(root: Path, parts: dict[str, int]) -> None:
    """A VOC data set of :func:`square_scene` images; some hold nothing."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    rng, number = np.random.default_rng(0), 0
    for part, count in parts.items():
        names = [f"{number + index:04d}" for index in range(count)]
        number += count
        for name in names:
            image, objects = square_scene(rng)
            Image.fromarray(image).save(root / "JPEGImages" / f"{name}.png")
            (root / "Annotations" / f"{name}.xml").write_text(voc_xml((48, 64), objects))
        (root / "ImageSets" / "Main" / f"{part}.txt").write_text("\n".join(names) + "\n")


@dataclass(frozen=True)
class TinyDetection:
    """A VOC folder, and a detector trained on it; ``test_map50`` is its mAP50 on the test part."""

    root: Path
    test_map50: float

    @property
    def data(self) -> dict[str, Any]:
        """A budget's ``data``."""
        parts = {part: f"ImageSets/Main/{name}.txt" for part, name in PARTS.items()}
        return {"format": "voc", "root": str(self.root / "voc"), "calibration": 32, **parts}

    def budget(self, **changes: Any) -> dict[str, Any]:
        """A budget as plain values; ``changes`` replace top-level keys."""
        values = {
            "task": "detection",
            "model": {"checkpoint": str(self.root / "base.safetensors")},
            "data": self.data,
            "targets": ["local-1-thread"],
            "limits": {"map50_drop": 0.9},
            "optimize": ["size", "map50"],
            "search": {"trials": 3, "seed": 0, "leave_one_out": False},
        }
        return {**values, **changes}

    def model_spec(self) -> ModelSpec:
        """The base, resolved."""
        return ModelSpec(checkpoint=str(self.root / "base.safetensors")).resolved(self.root)

    def data_spec(self) -> DataSpec:
        """The data, resolved."""
        return DataSpec(**self.data).resolved(self.root)


PARTS = {"train": "train", "validation": "val", "test": "test"}


@pytest.fixture(scope="session")
def tiny_detection(tmp_path_factory: pytest.TempPathFactory) -> TinyDetection:
    """Data and a detector trained for a few seconds to clearly more than chance; do not write into its folder."""
    from sousvit.spaces.training.base import TrainingSpec, TrainSpec, train_base

    root = tmp_path_factory.mktemp("squares")
    write_squares(root / "voc", {"train": 96, "val": 32, "test": 32})
    spec = TrainSpec(
        model=ModelSpec(**TINY_DETECTOR),
        data=TinyDetection(root, 0.0).data_spec(),
        training=TrainingSpec(epochs=8, learning_rate=2e-2, batch_size=8, augmentation="flip", precision="fp32"),
    )
    description = train_base(spec, root / "base.safetensors", say=lambda line: None)
    assert description["validation_map50"] > 0.7, description
    return TinyDetection(root, description["test_map50"])


def _run_sousvit(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A ``sousvit`` command in the test's own process, which has imported everything already."""
    from sousvit.cli.main import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    with scratch_registries(), pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["sousvit", *map(str, arguments)])
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return subprocess.CompletedProcess(sys.argv, code, out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class Bounded:
    """What a command came to that ran in a process of its own: exit code, output, and what it took."""

    returncode: int
    stdout: str
    stderr: str
    cpu_seconds: float
    peak_mb: float


_PEAK = "peak of its memory in kB: "
#: ``sousvit``, and at the end the most memory that it had: what the system counts begins with that of its parent.
_TELLING_PEAK = f"""
import atexit, re, runpy, sys

def tell():
    print({_PEAK!r} + re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1], file=sys.stderr)

atexit.register(tell)
runpy.run_module("sousvit", run_name="__main__")
"""


def _run_bounded(*arguments: object, cwd: Path, seconds: float = 60, gigabytes: int = 16) -> Bounded:
    """A ``sousvit`` command in a process that is ended after so long, and gets no more address space than that.

    Processor time is what is told: the wall clock of a busy machine says nothing.
    """
    import resource

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (gigabytes << 30, gigabytes << 30))
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    command = [sys.executable, "-c", _TELLING_PEAK, *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=err, preexec_fn=bound
        )  # what waits for a pipe takes no processor time: a timer ends it
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        _, status, used = os.wait4(process.pid, 0)
        timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        took = used.ru_utime + used.ru_stime
        said = err.read()
        words, found, peak = said.rpartition(_PEAK)
        megabytes = float(peak) / 1000 if found else used.ru_maxrss / (1000 if sys.platform == "linux" else 1e6)
        return Bounded(process.returncode, out.read(), words if found else said, took, megabytes)


@pytest.fixture(scope="session")
def run_bounded() -> Callable[..., Bounded]:
    """See :func:`_run_bounded`."""
    return _run_bounded


@pytest.fixture(scope="session")
def run_sousvit() -> Callable[..., subprocess.CompletedProcess[str]]:
    """See :func:`_run_sousvit`."""
    return _run_sousvit
