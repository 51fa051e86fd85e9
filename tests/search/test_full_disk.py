"""A whole search on a disk that fills up in a deployment: it stops, and finds later what it would have found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

SPACE = {
    "techniques": {
        "prune_depth": {"drop": [0, 1]},
        "int8_dynamic": {"weights": ["uint8"], "per_channel": [True]},
        "weight_only": {"bits": [8]},
    }
}
SEARCH = {"trials": 6, "seed": 0, "explore_fidelity": 1.0, "measure_time": 0.1}

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


def searched(budget, run, executor, callbacks=()):
    found = sousvit.Search(budget, run=run, executor=executor, callbacks=list(callbacks)).optimize()
    trials = [[trial.key, trial.status] for trial in sousvit.open_run(run).archive]
    return {"status": found.status, "recipe": str(found.recipe), "trials": trials}


def main(budget, kind, left, technique, executor):
    told = {"undisturbed": searched(budget, "undisturbed", executor)}
    trouble = Trouble(kind, int(left), technique)
    try:
        told["disturbed"] = searched(budget, "disturbed", executor, [trouble])
    except sousvit.UserError as error:
        told["error"] = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    Path("filler").unlink(missing_ok=True)
    told["met"] = trouble.done
    told["stopped"] = [trial.status for trial in sousvit.open_run("disturbed").archive]
    told["resumed"] = searched(budget, "disturbed", executor)
    print(json.dumps(told))


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


@pytest.mark.parametrize(
    ("kind", "left", "technique", "executor"),
    [
        ("disk", 0, "int8_dynamic", "local"),
        ("disk", 600_000, "int8_dynamic", "local"),  # the graph fits, the quantizer's own files do not
        ("disk", 300_000, "weight_only", "inline"),
        ("limit", 150_000, "int8_dynamic", "inline"),
    ],
)
def test_a_disk_that_fills_up_in_a_deployment_changes_no_answer(
    kind, left, technique, executor, tiny_project, tmp_path, all_cores
):
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "script.py").write_text(SCRIPT)
    limits = {"accuracy_drop": 0.3, "size_ratio": 0.9}
    budget = tiny_project.budget(limits=limits, optimize=["size", "accuracy"], space=SPACE, search=SEARCH)
    (tmp_path / "budget.yaml").write_text(yaml.safe_dump(budget))
    command = [sys.executable, tmp_path / "script.py", tmp_path / "budget.yaml", kind, left, technique, executor]
    if kind == "disk":
        if not can_mount(disk):
            pytest.skip("this system lets nobody mount a small disk")
        command = ["unshare", "-rm", "sh", "-c", MOUNTED, "sh", disk, *command]
    with all_cores():
        ran = subprocess.run(list(map(str, command)), cwd=disk, capture_output=True, text=True, timeout=280)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])
    assert told["met"] and "failed" not in [status for _, status in told["undisturbed"]["trials"]]
    assert "run the same command again to resume" in told["error"] and "\n" not in told["error"]
    assert "failed" not in told["stopped"]
    assert told["resumed"] == told["undisturbed"]
