"""Nodes and workers of a local Ray cluster, killed while a search runs on it."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import psutil

from sousvit.search.archive import Archive
from sousvit.search.budget import make_budget
from sousvit.search.run import search
from tests.campaign.kills import BUDGET, JUDGE
from tests.campaign.outcome import Outcome, chance_of, grouped

ATTACKS = ("Ray node killed", "Ray worker killed")
ATTACKS_PER_RUN = 2
TRIALS, LONGEST = 24, 180.0


def attacks(numbers: range, seed: int) -> Iterator[Outcome]:
    """Losses, a few in every search."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["SOUSVIT_TEST_SECONDS"] = "0.3"  # of a trial; workers inherit it from their nodes
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(), cluster.add_node()]
        with tempfile.TemporaryDirectory() as folder:
            for number, told in grouped(numbers, ATTACKS_PER_RUN):
                found = _one_run(cluster, nodes, Path(folder, str(number)), chance_of(seed, number))
                yield from found[told.start : told.stop]
    finally:
        ray.shutdown()
        cluster.shutdown()


def _one_run(cluster: Any, nodes: list[Any], run: Path, random: Random) -> list[Outcome]:
    from sousvit.search.executors.ray.tune import RayExecutor

    run.mkdir(parents=True)
    budget = make_budget({**BUDGET, "ray": {"address": cluster.address}, "search": {"trials": TRIALS}}, run)
    kinds = [random.choice(ATTACKS) for _ in range(ATTACKS_PER_RUN)]
    with ThreadPoolExecutor(1) as pool:  # nodes are added and removed from this thread only
        ending = pool.submit(search, budget, run, lambda b, f: RayExecutor(b, f, judge=JUDGE))
        for place, kind in enumerate(kinds, 1):
            _wait_for_trials(run, place * TRIALS // (ATTACKS_PER_RUN + 2), ending)
            time.sleep(random.uniform(0, 1))
            if kind == ATTACKS[0]:
                cluster.remove_node(nodes.pop(random.randrange(2)), allow_graceful=False)
                nodes.append(cluster.add_node())
            else:
                _kill_worker(random)
        finding = _finding(run, ending)
    return [Outcome(kind, finding) for kind in kinds]


def _wait_for_trials(run: Path, count: int, ending: Future[Any]) -> None:
    log, end = run / "events.jsonl", time.monotonic() + LONGEST
    while time.monotonic() < end and not ending.done():
        if log.is_file() and log.read_text().count('"event":"trial"') >= count:
            return
        time.sleep(0.05)


def _kill_worker(random: Random) -> None:
    """Kill one process that judges trials, as soon as there is one."""
    judging: list[psutil.Process] = []
    end = time.monotonic() + LONGEST
    while not judging and time.monotonic() < end:
        named = psutil.process_iter(["cmdline"])
        judging = [one for one in named if "ray::JudgeTrainable" in " ".join(one.info["cmdline"] or [])]
        time.sleep(0.02)
    judging[random.randrange(len(judging))].send_signal(signal.SIGKILL)


def _finding(run: Path, ending: Future[Any]) -> str:
    try:
        answer = ending.result(LONGEST)
    except TimeoutError:
        return f"no end within {LONGEST:.0f} s"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    archive = Archive(run)
    failed = [trial for trial in archive if trial.status == "failed"]
    if len(archive) != TRIALS or archive.own != TRIALS:
        return f"{len(archive)} trials, {archive.own} paid for, instead of {TRIALS}"
    if len(failed) > ATTACKS_PER_RUN:
        return f"{len(failed)} trials failed by {ATTACKS_PER_RUN} losses"
    return "" if answer.feasible else "no answer"
