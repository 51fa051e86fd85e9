"""Searches on clusters of several nodes whose nodes, workers and drivers are lost on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sousvit.search.archive import Archive
from sousvit.search.budget import Budget, make_budget
from sousvit.search.run import search

pytestmark = pytest.mark.slow
JUDGE = f"{Path(__file__).with_name('simulated_judge.py')}:SimulatedJudge"


@pytest.fixture(scope="module")
def ray_cluster():
    """A head without workers and two nodes of one core, started once for all tests of this module."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOUSVIT_TEST_SECONDS", "0.3")  # workers inherit it from their nodes
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        made.plain, made.board = made.add_node(), made.add_node(resources={"device:board": 1})
        yield made
        made.shutdown()


@pytest.fixture
def cluster(ray_cluster):
    """The module's cluster; a test leaves it with its two nodes, whatever it killed or added."""
    import ray

    yield ray_cluster
    ray.shutdown()
    for node in ray_cluster.worker_nodes - {ray_cluster.plain, ray_cluster.board}:
        ray_cluster.remove_node(node, allow_graceful=False)
    if ray_cluster.plain not in ray_cluster.worker_nodes:
        ray_cluster.plain = ray_cluster.add_node()


def budget(folder: Path, address: str | None, trials: int = 18, **ray_options) -> Budget:
    space = {"techniques": {"prune_mlp": {"keep": [0.25, 0.5, 0.75, 1.0]}, "prune_depth": {"drop": [0, 1, 2]},
                            "distill": {"epochs": [2]}, "int8_dynamic": {}}}  # fmt: skip
    values = {
        "model": {"name": "vit_tiny_patch16_224"},
        "data": {"format": "idx", "train": "train-images", "test": "test-images"},
        "limits": {"accuracy_drop": 0.03, "latency_ratio": 0.6},
        "optimize": ["latency", "size"],
        "space": space,
        "ray": {"address": address, **ray_options},
        "search": {"trials": trials, "proposer": "tpe"},
    }
    return make_budget(values, folder)


def run(folder: Path, cluster, **options):
    from sousvit.search.executors.ray.tune import RayExecutor

    return search(budget(folder, cluster.address, **options), folder, lambda b, f: RayExecutor(b, f, judge=JUDGE))


def check(folder: Path, trials: int = 18) -> None:
    """Every trial is there once, also in the log, and none was counted twice."""
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    keys = Counter(event["trial"]["key"] for event in events if event["event"] == "trial")
    assert max(keys.values()) == 1
    archive = Archive(folder)
    assert len(archive) == archive.own == len(keys) == trials


def wait_for_trials(folder: Path, count: int, driver: subprocess.Popen | None = None) -> None:
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and (driver is None or driver.poll() is None):
        path = folder / "events.jsonl"
        if path.is_file() and path.read_text().count('"event":"trial"') >= count:
            return
        time.sleep(0.1)
    raise AssertionError("no trials")


def in_thread(action) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def test_a_node_that_is_killed_in_the_middle_costs_no_result(cluster, tmp_path):
    def kill() -> None:
        wait_for_trials(tmp_path, 8)
        cluster.remove_node(cluster.plain, allow_graceful=False)

    thread = in_thread(kill)
    answer = run(tmp_path, cluster)
    thread.join(1)
    assert answer.feasible
    check(tmp_path)
    assert not [trial for trial in Archive(tmp_path) if trial.status == "failed"]


def test_a_node_that_joins_late_works_too(cluster, tmp_path):
    with ThreadPoolExecutor(1) as pool:  # a node can be added from the main thread only
        answer = pool.submit(run, tmp_path, cluster)
        wait_for_trials(tmp_path, 4)
        cluster.add_node()
        assert answer.result().feasible
    check(tmp_path)


def test_trials_take_the_resources_that_the_budget_names(cluster, tmp_path):
    assert run(tmp_path, cluster, trials=8, resources={"device:board": 1}).feasible
    check(tmp_path, 8)


def test_artifacts_travel_through_the_storage_where_the_folder_is_not_shared(cluster, tmp_path, monkeypatch):
    from sousvit.search.executors.ray import tune as ray_tune

    # Workers look for this mark in the run folder: without it they take the folder for another machine's.
    monkeypatch.setattr(ray_tune, "MARK", "elsewhere")
    run_folder, storage = tmp_path / "run", tmp_path / "storage"
    answer = run(run_folder, cluster, trials=10, storage=str(storage))
    assert answer.feasible
    check(run_folder, 10)
    artifact = run_folder / "artifacts" / answer.rows[0].artifact / "model.onnx"
    assert artifact.read_text() == "recipe" and list((storage / "artifacts").iterdir())


def test_workers_that_do_not_see_the_folder_need_a_storage(cluster, tmp_path, monkeypatch):
    from sousvit.errors import UserError
    from sousvit.search.executors.ray import tune as ray_tune

    monkeypatch.setattr(ray_tune, "MARK", "elsewhere")
    with pytest.raises(UserError, match=r"ray\.storage"):
        run(tmp_path, cluster, trials=4)


def test_a_search_ends_well_beside_others_that_fill_the_object_store(tmp_path, monkeypatch):
    import numpy as np
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("SOUSVIT_TEST_SECONDS", "0.1")
    small = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "include_dashboard": False, "object_store_memory": 80_000_000},
    )
    try:
        ray.init(small.address)
        held = [ray.put(np.full(5_000_000, number)) for number in range(4)]  # twice what the store holds: some spill
        run(tmp_path, small, trials=12)
        check(tmp_path, 12)
        assert [int(ray.get(one)[0]) for one in held] == [0, 1, 2, 3]  # and theirs are still there
    finally:
        ray.shutdown()
        small.shutdown()


def test_without_an_address_no_cluster_that_happens_to_run_here_is_joined(cluster, tmp_path):
    import ray

    from sousvit.search.executors.ray.tune import RayExecutor

    executor = RayExecutor(budget(tmp_path, None), tmp_path, judge=JUDGE)
    executor.start(None)
    joined = ray.get_runtime_context().gcs_address
    executor.close()
    assert joined != cluster.address


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:"])
def test_a_cluster_that_is_not_there_is_one_line(address, tmp_path):
    from sousvit.errors import UserError
    from sousvit.search.executors.ray.tune import RayExecutor

    with pytest.raises(UserError, match="cluster must answer"):
        RayExecutor(budget(tmp_path, address), tmp_path, judge=JUDGE).start(None)


DRIVER = textwrap.dedent("""
    import sys
    from pathlib import Path
    from sousvit.search.budget import Budget
    from sousvit.search.executors.ray.tune import RayExecutor
    from sousvit.search.run import search

    folder = Path(sys.argv[2])
    search(Budget.read(Path(sys.argv[1])), folder, lambda b, f: RayExecutor(b, f, judge=sys.argv[3]))
""")


def test_a_driver_that_is_killed_goes_on_where_it_was(cluster, tmp_path):
    import yaml

    path, folder = tmp_path / "budget.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump(budget(tmp_path, cluster.address).model_dump(mode="json")))
    command = [sys.executable, "-c", DRIVER, str(path), str(folder), JUDGE]
    driver = subprocess.Popen(command, env={**os.environ}, start_new_session=True)
    wait_for_trials(folder, 8, driver)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    finished = {trial.key for trial in Archive(folder)}
    assert subprocess.run(command, check=False, timeout=200).returncode == 0
    assert finished <= {trial.key for trial in Archive(folder)}
    check(folder)


DEVICE = textwrap.dedent("""
    import os, sys
    import ray
    from sousvit.errors import UserError
    from sousvit.objectives.devices.open import open_device
    from sousvit.objectives.targets.target import Target
    from sousvit.search.executors.ray import device as ray_device

    def refused(call, target):
        try:
            call(target)
        except UserError as error:
            print(error)

    ray.init(sys.argv[1])
    target = Target(device="board", agent="ray")
    node, reaching, environment = ray_device.place(target)
    os.environ.update(environment)
    reached = Target(device="board", **reaching)
    assert "onnxruntime" in open_device(reached).facts()["runtimes"]
    ray_device.JOIN_SECONDS = 2.0
    refused(ray_device.place, target)  # the one there is belongs to this search
    ray.get(node.close.remote())
    refused(open_device, target)
""")


def test_a_device_node_is_measured_through_the_agent_that_ray_starts_there(cluster):
    """In a process of its own: a driver that once used Ray's tokens cannot own actors of a cluster without them."""
    command = [sys.executable, "-c", DEVICE, cluster.address]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    free, closed = done.stdout.strip().splitlines()[-2:]
    assert "device:board" in free and "executor ray" in closed
