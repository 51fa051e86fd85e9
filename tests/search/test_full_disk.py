"""A whole search on a disk that fills up in a deployment: it stops, and finds later what it would have found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SPACE = {
    "techniques": {
        "prune_depth": {"drop": [0, 1]},
        "int8_dynamic": {"weights": ["uint8"], "per_channel": [True]},
        "weight_only": {"bits": [8]},
    }
}
SEARCH = {"trials": 4, "seed": 0, "explore_fidelity": 1.0, "measure_time": 0.1}

SCRIPT = '''
import errno, json, os, resource, sys
from pathlib import Path

import sousvit


class Trouble(sousvit.Callback):
    """Leaves so many bytes at the first trial with a technique: of the disk, or of what a file may have."""

    def __init__(self, kind, left, technique):
        self.kind, self.left, self.technique, self.done = kind, left, technique, False

    def on_begin(self, origin, recipe, fidelity):
        if not self.done and any(step.technique == self.technique for step in recipe.steps):
            self.done = True
            self.fill() if self.kind == "disk" else resource.setrlimit(resource.RLIMIT_FSIZE, (self.left, -1))

    def fill(self):
        free = os.statvfs(".").f_bavail * os.statvfs(".").f_frsize
        with open("filler", "wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, free - self.left)


def searched(budget, executor, callbacks=()):
    found = sousvit.Search(budget, run="run", executor=executor, callbacks=list(callbacks)).optimize()
    return {"status": found.status, "recipe": str(found.recipe), "trials": trials()}


def trials():
    events = [json.loads(line) for line in Path("run/events.jsonl").read_text().splitlines()]
    found = [event["trial"] for event in events if event["event"] == "trial"]
    return [[str(trial["recipe"]), trial["status"]] for trial in found]


def main(budget, kind, left, technique, executor):
    told, trouble = {}, Trouble(kind, int(left), technique)
    if kind != "none":
        try:
            searched(budget, executor, [trouble])
        except sousvit.UserError as error:
            told["error"] = str(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
        Path("filler").unlink(missing_ok=True)
        told["stopped"] = trials()
    print(json.dumps({**told, "answer": searched(budget, executor)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
'''

#: A file system of 24 MB of our own, in a namespace of our own: no privileges are needed where the system allows it.
MOUNTED = 'mount -t tmpfs -o size=24m small "$1" && cd "$1" && export TMPDIR="$1" && shift && exec "$@"'


def can_mount(folder: Path) -> bool:
    command = ["unshare", "-rm", "sh", "-c", MOUNTED, "sh", str(folder), "true"]
    try:
        return subprocess.run(command, capture_output=True, timeout=20).returncode == 0
    except OSError:
        return False


def run(project: Any, home: Path, trouble: list[str], start: list[str]) -> dict[str, Any]:
    """What the script tells of a search in ``home/disk``."""
    (home / "script.py").write_text(SCRIPT)
    limits = {"accuracy_drop": 0.3, "size_ratio": 0.9}
    project.write_budget(home / "budget.yaml", limits=limits, optimize=["size", "accuracy"], space=SPACE, search=SEARCH)
    command = [*start, sys.executable, str(home / "script.py"), str(home / "budget.yaml"), *trouble]
    ran = subprocess.run(command, cwd=home / "disk", capture_output=True, text=True, timeout=280)
    assert ran.returncode == 0, ran.stderr
    told: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return told


@pytest.fixture(scope="module")
def undisturbed(tiny_project, tmp_path_factory, all_cores):
    home = tmp_path_factory.mktemp("undisturbed")
    (home / "disk").mkdir()
    with all_cores():
        return run(tiny_project, home, ["none", "0", "-", "inline"], [])["answer"]


@pytest.mark.parametrize(
    ("kind", "left", "technique", "executor"),
    [
        ("disk", "600000", "int8_dynamic", "local"),  # the graph fits, the quantizer's own files do not
        ("limit", "150000", "weight_only", "inline"),
    ],
)
def test_a_disk_that_fills_up_in_a_deployment_changes_no_answer(
    kind, left, technique, executor, undisturbed, tiny_project, tmp_path, all_cores
):
    disk = tmp_path / "disk"
    disk.mkdir()
    if kind == "disk" and not can_mount(disk):
        pytest.skip("this system lets nobody mount a small disk")
    start = ["unshare", "-rm", "sh", "-c", MOUNTED, "sh", str(disk)] if kind == "disk" else []
    with all_cores():
        told = run(tiny_project, tmp_path, [kind, left, technique, executor], start)
    assert "run the same command again to resume" in told["error"] and "\n" not in told["error"]
    for trials in (told["stopped"], undisturbed["trials"]):
        assert "failed" not in [status for _, status in trials]
    assert told["stopped"] == undisturbed["trials"][: len(told["stopped"])]
    assert told["answer"] == undisturbed
