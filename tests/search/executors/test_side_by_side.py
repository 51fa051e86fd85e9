"""Several workers on one machine: jobs run at once, on cores of their own, and losing one loses no result."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import psutil
import pytest

from sousvit.errors import UserError
from sousvit.machine import available_cores
from sousvit.search.archive import Archive
from sousvit.search.callbacks import Callback
from sousvit.search.executors.executor import Executor
from sousvit.search.executors.open import open_executor
from sousvit.search.judging.pace import fastest_workers
from sousvit.search.run import search
from tests.search.executors.test_executors import budget, side_by_side

two_workers = partial(side_by_side, workers=2)


class Together(Callback):
    """Counts the jobs that run at once; may tell a worker to die."""

    def __init__(self, folder: Path | None = None) -> None:
        self.running = self.most = self.begun = 0
        self._folder = folder

    def on_begin(self, origin, recipe, fidelity):
        self.begun += 1
        self.running += 1
        self.most = max(self.most, self.running)
        if self.begun == 5 and self._folder is not None:
            (self._folder / "kill-next").touch()

    def on_trial(self, trial, counts):
        self.running = 0 if trial.status == "gated" else max(0, self.running - 1)


@pytest.fixture
def slow_jobs(monkeypatch) -> None:
    monkeypatch.setenv("SOUSVIT_TEST_SECONDS", "0.1")


def test_two_workers_judge_at_once(slow_jobs, tmp_path):
    together = Together()
    answer = search(budget(tmp_path), tmp_path, two_workers, together)
    trials = list(Archive(tmp_path))
    assert together.most >= 2 and answer.feasible
    assert len(trials) == 14 and max(Counter(trial.key for trial in trials).values()) == 1
    assert not [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


def test_a_killed_worker_of_two_loses_nothing(slow_jobs, tmp_path):
    search(budget(tmp_path), tmp_path, two_workers, Together(tmp_path))
    trials = list(Archive(tmp_path))
    assert not (tmp_path / "kill-next").exists()
    assert len(trials) == 14 and not [trial for trial in trials if trial.status == "failed"]


def test_a_search_that_two_workers_began_ends_with_one(slow_jobs, tmp_path):
    search(budget(tmp_path, trials=6), tmp_path, two_workers)
    first = [trial.key for trial in Archive(tmp_path)]
    search(budget(tmp_path, trials=12), tmp_path, side_by_side)
    again = [trial.key for trial in Archive(tmp_path)]
    assert again[: len(first)] == first and len(set(again)) == 12


class StopAtTheFifth(Callback):
    def __init__(self) -> None:
        self.begun = 0

    def on_begin(self, origin, recipe, fidelity):
        self.begun += 1
        if self.begun == 5:
            raise KeyboardInterrupt


def test_an_interrupt_ends_both_workers(slow_jobs, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        search(budget(tmp_path), tmp_path, two_workers, StopAtTheFifth())
    assert not [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]
    assert not [trial for trial in Archive(tmp_path) if trial.status == "failed"]


def test_requests_that_are_no_jobs_have_all_cores(slow_jobs, tmp_path):
    """The worker gives its cores back before it answers."""
    asked: list[int | None] = []

    def watched(given, folder) -> Executor:
        executor = two_workers(given, folder)
        first = executor._members[0]
        use_cores, call = first.use_cores, first.call
        first.use_cores = lambda count: (asked.append(count), use_cores(count))
        first.call = lambda request: (asked.append(-1), call(request))[1]
        return executor

    search(budget(tmp_path), tmp_path, watched)
    assert asked[:3] == [max(1, available_cores() // 2), None, -1]


PINNED = """
import os, sys, threading, time
from pathlib import Path
from sousvit.machine import lease_cores, release_cores

threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
def cores():
    return [len(os.sched_getaffinity(int(task.name))) for task in Path("/proc/self/task").iterdir()]
before = cores()
lease_cores(1, Path(sys.argv[1]))
within = cores()
release_cores()
print(len(before), set(within) == {1}, cores() == before, flush=True)
os._exit(0)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are not listed here")
def test_every_thread_of_a_worker_keeps_to_its_cores(tmp_path):
    command = [sys.executable, "-c", PINNED, tmp_path]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(said[0]) >= 2 and said[1:] == ["True", "True"]


@pytest.mark.parametrize(
    ("seconds", "workers"),
    [
        ({1: 1.0}, 1),
        ({1: 1.0, 2: 1.0}, 2),
        ({1: 1.0, 2: 1.9}, 1),
        ({1: 1.0, 2: 1.7, 4: 3.3}, 2),
        ({1: 1.0, 2: 1.1, 4: 1.2, 8: 2.3}, 4),
        ({1: 8.0, 2: 1.0}, 2),
    ],
)
def test_as_many_workers_as_train_fastest_together(seconds, workers):
    assert fastest_workers(seconds) == workers


@pytest.mark.parametrize(
    ("executor", "workers", "rule"),
    [
        ("local", available_cores() + 1, "a worker needs a core"),
        ("inline", 2, "executor inline has one worker"),
        ("ray", 2, "workers of a cluster are counted in its own section"),
    ],
)
def test_workers_that_cannot_be_had_are_refused(executor, workers, rule, tmp_path):
    with pytest.raises(UserError, match=rule):
        open_executor(executor, budget(tmp_path, workers=workers), tmp_path)


@pytest.mark.parametrize("workers", [0, -1, 100_000, "many", 1.5])
def test_a_wrong_number_of_workers_is_refused(workers, tmp_path):
    with pytest.raises(UserError, match="workers"):
        budget(tmp_path, workers=workers)
