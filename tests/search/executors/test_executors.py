"""One conformance suite for all executors: the same results give the same answer, lost workers lose nothing."""

from __future__ import annotations

import errno
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from sousvit.errors import UserError
from sousvit.search.archive import Archive
from sousvit.search.budget import Budget, make_budget
from sousvit.search.callbacks import Callback
from sousvit.search.executors.executor import Executor, MakeTable, Verify
from sousvit.search.executors.inline import InlineExecutor
from sousvit.search.executors.local import LocalExecutor
from sousvit.search.executors.simulated import SimulatedExecutor
from sousvit.search.executors.spawn import start_deaf
from sousvit.search.judging.worker import serve
from sousvit.search.run import search
from tests.campaign import kills

JUDGE = f"{Path(__file__).with_name('simulated_judge.py')}:SimulatedJudge"
Maker = Callable[[Budget, Path], Executor]


def simulated(budget: Budget, folder: Path) -> Executor:
    spec = importlib.util.spec_from_file_location("simulated_judge", JUDGE.rpartition(":")[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    judge = module.SimulatedJudge({"budget": budget.model_dump(mode="json"), "folder": str(folder)}, None)
    answers = {Verify: judge.verify, MakeTable: judge.make_table}
    return SimulatedExecutor(judge.start(None), judge.judge, answers=answers)


def inline(budget: Budget, folder: Path) -> Executor:
    return InlineExecutor({"budget": budget.model_dump(mode="json"), "folder": str(folder), "judge": JUDGE})


def local(budget: Budget, folder: Path) -> Executor:
    setup = {"budget": budget.model_dump(mode="json"), "folder": str(folder), "judge": JUDGE}
    return LocalExecutor(serve, setup)


def on_ray(budget: Budget, folder: Path) -> Executor:
    from sousvit.search.executors.ray.tune import RayExecutor

    return RayExecutor(budget, folder, judge=JUDGE)


MAKERS: dict[str, Maker] = {"simulated": simulated, "inline": inline, "local": local, "ray": on_ray}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One Ray of one core for the module: what runs there runs in the order of a single worker."""
    import ray

    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(params=MAKERS)
def make(request) -> Maker:
    if request.param == "ray":
        request.getfixturevalue("cluster")
    return MAKERS[request.param]


def budget(folder: Path, **search_options) -> Budget:
    search_options = {"trials": 14, "proposer": "tpe", "explore_share": 0.5, **search_options}
    space = {"techniques": {"prune_mlp": {"keep": [0.25, 0.5, 0.75, 1.0]}, "prune_depth": {"drop": [0, 1, 2]},
                            "distill": {"epochs": [2]}, "int8_dynamic": {}}}  # fmt: skip
    return make_budget(
        {
            "model": {"name": "vit_tiny_patch16_224"},
            "data": {"format": "idx", "train": "train-images", "test": "test-images"},
            "limits": {"accuracy_drop": 0.03, "latency_ratio": 0.6},
            "optimize": ["latency", "size"],
            "space": space,
            "search": search_options,
        },
        folder,
    )


def trials(folder: Path) -> list[tuple[str, str]]:
    return [(trial.key, trial.status) for trial in Archive(folder)]


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> tuple[list[tuple[str, str]], dict]:
    """What the simulated executor finds."""
    folder = tmp_path_factory.mktemp("expected")
    answer = search(budget(folder), folder, simulated)
    return trials(folder), answer.chosen.recipe


def test_every_executor_finds_the_same(make, expected, tmp_path):
    answer = search(budget(tmp_path), tmp_path, make)
    assert (trials(tmp_path), answer.chosen.recipe) == expected
    assert answer.feasible
    assert (tmp_path / "artifacts" / answer.rows[0].artifact / "model.onnx").is_file()


def test_a_killed_worker_loses_nothing(make, expected, tmp_path):
    if make in (simulated, inline):
        pytest.skip("has no process to kill")
    begun: list[str] = []

    class KillTheFifth(Callback):
        def on_begin(self, origin, recipe, fidelity):
            begun.append(origin)
            if len(begun) == 5:
                (tmp_path / "kill-next").touch()

    answer = search(budget(tmp_path), tmp_path, make, KillTheFifth())
    assert not (tmp_path / "kill-next").exists() and len(begun) >= 5
    assert (trials(tmp_path), answer.chosen.recipe) == expected


def test_a_search_that_is_started_again_repeats_nothing(make, tmp_path):
    search(budget(tmp_path, trials=6), tmp_path, make)
    first = trials(tmp_path)
    search(budget(tmp_path, trials=12), tmp_path, make)
    again = trials(tmp_path)
    assert again[: len(first)] == first and len(again) == 12
    assert max(Counter(key for key, _ in again).values()) == 1


class BreakTheDisk(Callback):
    """Puts a fault in the way of the fifth trial."""

    def __init__(self, folder: Path, name: str, what: str) -> None:
        self._file, self._what, self._begun = folder / name, what, 0

    def on_begin(self, origin, recipe, fidelity):
        self._begun += 1
        if self._begun == 5:
            self._file.write_text(self._what)


@pytest.mark.parametrize(
    ("name", "what", "rule"),
    [
        ("disk-fault", str(errno.ENOSPC), "the disk must have free space"),
        ("disk-fault", str(errno.ESTALE), "the file system must stay mounted"),
        ("disk-fault-word", "cannot write model.bin: Disk quota exceeded", "the disk quota must leave free space"),
    ],
)
def test_a_fault_of_the_machine_stops_the_search_and_is_no_result(make, name, what, rule, expected, tmp_path):
    if make is simulated:
        pytest.skip("has no worker")
    with pytest.raises(UserError, match=f"^{rule}; received .*; .*run the same command again to resume$"):
        search(budget(tmp_path), tmp_path, make, BreakTheDisk(tmp_path, name, what))
    assert [status for _, status in trials(tmp_path) if status == "failed"] == []
    before = trials(tmp_path)
    (tmp_path / name).unlink()
    answer = search(budget(tmp_path), tmp_path, make)
    assert trials(tmp_path)[: len(before)] == before
    assert (trials(tmp_path), answer.chosen.recipe) == expected


def test_a_worker_that_dies_while_files_may_not_grow_is_no_result(expected, tmp_path, file_limit):
    class KillTheFifth(Callback):
        begun = 0

        def on_begin(self, origin, recipe, fidelity):
            self.begun += 1
            if self.begun == 5:
                (tmp_path / "kill-next").touch()

    with file_limit(16 << 20), pytest.raises(UserError, match=r"files must be allowed to grow.*ulimit -f"):
        search(budget(tmp_path), tmp_path, local, KillTheFifth())
    answer = search(budget(tmp_path), tmp_path, local)
    assert (trials(tmp_path), answer.chosen.recipe) == expected


class Beginning:
    """A process that a Ctrl-C meets while it is being started."""

    whole = False

    def start(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        self.whole = True


def test_an_interrupt_waits_until_a_process_has_begun() -> None:
    beginning, before = Beginning(), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        start_deaf(beginning)
    assert beginning.whole and signal.getsignal(signal.SIGINT) is before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.parametrize("later", [0.0, 0.1, 0.4])
def test_an_interrupt_while_a_worker_begins_is_no_traceback(later: float, tmp_path: Path) -> None:
    """A terminal sends it to driver and worker, which imports for seconds."""
    (tmp_path / "driver.py").write_text(kills.DRIVER)
    (tmp_path / "budget.yaml").write_text(yaml.safe_dump(kills.BUDGET))
    command = [sys.executable, tmp_path / "driver.py", tmp_path / "budget.yaml", tmp_path / "run", JUDGE]
    driver = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while driver.poll() is None and not [
        child for child in psutil.Process(driver.pid).children() if "spawn_main" in " ".join(child.cmdline())
    ]:
        time.sleep(0.002)
    time.sleep(later)
    os.killpg(driver.pid, signal.SIGINT)
    _, said = driver.communicate(timeout=60)
    assert said == f"{kills.BEGUN}\ninterrupted\n" and driver.returncode == 1
