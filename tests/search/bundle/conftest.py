"""What the tests of bundles share: finished runs, and an environment with a runtime, numpy and Pillow alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import sousvit
from sousvit.data.formats.idx import read_idx

SPACE = {
    "techniques": {
        "prune_depth": {"drop": [1]},
        "prune_mlp": {"keep": [0.5]},
        "int8_dynamic": {"weights": ["uint8"], "per_channel": [True]},
    }
}
OPTIONS = {"explore_fidelity": 1.0, "measure_time": 0.05, "leave_one_out": False, "confirm": 0.0}
NAMES = ("rows of stripes", "columns", "checkerboard")


@pytest.fixture(scope="package")
def finished(tiny_project, tmp_path_factory) -> sousvit.Result:
    """A search on the tiny project, with named classes."""
    folder = tmp_path_factory.mktemp("bundle-run") / "r"
    budget = tiny_project.budget(
        data={**tiny_project.data, "classes": list(NAMES)}, space=SPACE, search={"trials": 3, "seed": 0, **OPTIONS}
    )
    return sousvit.Search(budget, run=folder, executor="inline").optimize()


@pytest.fixture(scope="package")
def detected(tiny_detection, tmp_path_factory) -> sousvit.Result:
    """A search on the tiny detection project."""
    folder = tmp_path_factory.mktemp("bundle-detection") / "r"
    space = {"techniques": {"prune_mlp": {"keep": [0.5]}, "int8_dynamic": {"weights": ["uint8"]}}}
    budget = tiny_detection.budget(space=space, search={"trials": 2, "seed": 0, **OPTIONS})
    return sousvit.Search(budget, run=folder, executor="inline").optimize()


@pytest.fixture(scope="package")
def test_images(tiny_project, tmp_path_factory) -> list[Path]:
    """Every test image of the tiny project as a PNG file, in order."""
    folder = tmp_path_factory.mktemp("images")
    pixels = read_idx(tiny_project.root / "data" / "test-images.idx.gz")
    paths = [folder / f"{number:04d}.png" for number in range(len(pixels))]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(np.asarray(image)).save(path)
    return paths


@dataclass(frozen=True)
class Environment:
    """A virtual environment of its own."""

    python: Path

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Python with arguments; nothing of the tests' own environment is seen."""
        kept = {name: os.environ[name] for name in ("HOME", "PATH", "OMP_NUM_THREADS") if name in os.environ}
        command = [str(self.python), *map(str, arguments)]
        return subprocess.run(command, env=kept, cwd=self.python.parent, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="package")
def bare_environment(tmp_path_factory) -> Callable[..., Environment]:
    """Makes an environment that holds what pip would install for some packages, and nothing else.

    The files are links to the installed ones, so that it needs no network.
    """

    def make(*packages: str) -> Environment:
        place = tmp_path_factory.mktemp("bare") / "venv"
        venv.create(place, with_pip=False, symlinks=True)
        site = place / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        for name in _with_requirements(packages):
            for entry in {Path(str(file)).parts[0] for file in metadata.files(name) or ()} - {"..", "__pycache__"}:
                source = Path(str(metadata.distribution(name).locate_file(entry)))
                if source.exists() and not (site / entry).exists():
                    (site / entry).symlink_to(source)
        return Environment(place / "bin" / "python")

    return make


def _with_requirements(packages: tuple[str, ...]) -> set[str]:
    """Installed distributions with all that they require on this machine."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    waiting = list(packages)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        found.add(name)
        required = [Requirement(line) for line in metadata.requires(name) or ()]
        waiting += [one.name for one in required if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def head_of(card: str) -> dict:
    """The YAML head of a model card."""
    return yaml.safe_load(card.split("---\n")[1])
