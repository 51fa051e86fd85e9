"""Commands where the system allows too little: one line, exit code 2, and no waiting."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sousvit.errors import UserError
from sousvit.faults.ulimits import require_ulimits

resource = pytest.importorskip("resource")

#: Root's processes are counted by nobody, so tests that run as root become somebody else, who still reads its files.
AS_SOMEBODY = ["setpriv", "--reuid", "65534", "--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override",
               "--bounding-set=-all,+dac_override"]  # fmt: skip


LIMITS = {
    "-v": resource.RLIMIT_AS,
    "-n": resource.RLIMIT_NOFILE,
    "-u": resource.RLIMIT_NPROC,
    "-f": resource.RLIMIT_FSIZE,
}


def limited(option: str, value: int, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command under ``ulimit``, in bytes."""
    start = AS_SOMEBODY if option == "-u" and os.getuid() == 0 else []
    command = [*start, sys.executable, "-B", "-m", "sousvit", *map(str, arguments)]

    def limit() -> None:
        resource.setrlimit(LIMITS[option], (value, resource.getrlimit(LIMITS[option])[1]))

    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, preexec_fn=limit)


def told(ran: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that was refused."""
    assert ran.returncode == 2, (ran.returncode, ran.stderr[-2000:])
    lines = ran.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("sousvit: "), ran.stderr[-2000:]
    assert lines[0].count("; ") >= 2, "rule; received; action"
    return lines[0]


@pytest.mark.parametrize("megabytes", [24, 60, 100, 200])
@pytest.mark.parametrize("arguments", [("list", "techniques"), ("search", "budget.yaml")], ids=lambda given: given[0])
def test_little_address_space_is_one_line(megabytes, arguments, tmp_path):
    line = told(limited("-v", megabytes << 20, *arguments, cwd=tmp_path))
    assert "ulimit -v" in line


@pytest.mark.parametrize("command", ["search", "check", "survey", "apply", "measure"])
def test_space_for_the_command_line_alone_is_too_little_for_models(command, tmp_path):
    line = told(limited("-v", 1 << 30, command, "x.yaml", cwd=tmp_path))
    assert "received ulimit -v: 1024 MB" in line and "unlimited" in line


@pytest.mark.parametrize("files", [5, 8, 16, 63])
def test_few_open_files_are_one_line(files, tmp_path):
    assert f"received ulimit -n: {files}; raise it to 64" in told(limited("-n", files, "search", "x", cwd=tmp_path))


@pytest.mark.parametrize("threads", [1, 2, 4, 8])
def test_threads_that_cannot_start_are_one_line(threads, tmp_path):
    if os.getuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("root's threads are not counted")
    for arguments in (("list", "techniques"), ("search", "budget.yaml")):
        assert "ulimit -u" in told(limited("-u", threads, *arguments, cwd=tmp_path))


@pytest.mark.parametrize("kilobytes", [0, 4, 60, 150])
def test_files_that_may_not_grow_end_a_search_with_one_line(kilobytes, tiny_project, tmp_path):
    budget = tiny_project.write_budget(tmp_path / "budget.yaml", space={"techniques": {"int8_dynamic": {}}})
    arguments = ("search", budget, "--run", "one", "--executor", "inline")
    line = told(limited("-f", kilobytes << 10, *arguments, "--json", cwd=tmp_path))
    assert "must be allowed to grow" in line and "ulimit -f" in line


def test_other_commands_that_write_are_one_line_too(tmp_path):
    assert "ulimit -f" in told(limited("-f", 0, "schema", "--out", "schema.json", cwd=tmp_path))


def test_the_limits_of_this_process_are_enough():
    require_ulimits(computing=True)


def test_a_limit_is_told_with_what_is_needed(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (10, 10))
    with pytest.raises(UserError, match=r"enough address space; received ulimit -v: 0 MB; raise it to \d+ MB"):
        require_ulimits(computing=False)
