"""What ``pip wheel`` packs: the rooms with their data files, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {
    "sousvit": "sousvit",
    "spaces": "sousvit/spaces",
    "objectives": "sousvit/objectives",
    "search": "sousvit/search",
}
TOP = ("pyproject.toml", "README.md", "LICENSE")


def in_tree() -> set[str]:
    """The files of the rooms under the names that they have in a wheel."""
    return {
        f"{package}/{path.relative_to(ROOT / room).as_posix()}"
        for room, package in ROOMS.items()
        for path in (ROOT / room).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from a copy, so that an earlier build's leftovers are not packed, and none are left."""
    copy, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for room in (*ROOMS, "tests", "docs"):
        shutil.copytree(ROOT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in TOP:
        shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--quiet", "-w", out]
    done = subprocess.run([*map(str, command)], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [path] = out.glob("sousvit-*.whl")
    return zipfile.ZipFile(path)


def test_a_wheel_holds_the_rooms_and_nothing_else(wheel):
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == in_tree()


def test_a_wheel_says_what_it_is(wheel):
    [metadata] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    text = wheel.read(metadata).decode()
    assert (
        "\nName: sousvit\n" in text and "\nRequires-Python: >=3.10\n" in text and "\nLicense-Expression: MIT\n" in text
    )
    [commands] = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "sousvit = sousvit.__main__:main" in wheel.read(commands).decode()
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())
