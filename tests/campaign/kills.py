"""Kills and interrupts of driver, worker or both at random moments; the run is taken up again and must end alike.

The search is real, but for its judge (:mod:`tests.search.executors.simulated_judge`), so that a kill takes two seconds.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import psutil
import yaml

from tests.campaign.outcome import Outcome, chance_of, grouped

JUDGE = f"{Path(__file__).parents[1] / 'search' / 'executors' / 'simulated_judge.py'}:SimulatedJudge"
BUDGET = {
    "model": {"name": "vit_tiny_patch16_224"},
    "data": {"format": "idx", "train": "train-images", "test": "test-images"},
    "limits": {"accuracy_drop": 0.03, "latency_ratio": 0.6},
    "optimize": ["latency", "size"],
    "space": {
        "techniques": {
            "prune_mlp": {"keep": [0.25, 0.5, 0.75, 1.0]},
            "prune_depth": {"drop": [0, 1, 2]},
            "distill": {"epochs": [2]},
            "int8_dynamic": {},
        }
    },
    "search": {"trials": 14, "proposer": "tpe"},
}
#: Said by the driver once an interrupt is its own to handle; before that it is Python's, which has a traceback.
BEGUN = "begun"
DRIVER = textwrap.dedent("""
    import signal, sys
    from pathlib import Path

    def main():
        from sousvit.errors import UserError
        from sousvit.search.budget import Budget
        from sousvit.search.executors.local import LocalExecutor
        from sousvit.search.judging.worker import serve
        from sousvit.search.run import search

        folder = Path(sys.argv[2])
        try:
            budget = Budget.read(Path(sys.argv[1]))
            setup = {"budget": budget.model_dump(mode="json"), "folder": str(folder.resolve()), "judge": sys.argv[3]}
            search(budget, folder, lambda b, f: LocalExecutor(serve, setup))
        except UserError as error:  # a worker killed while it loads ends a search, and the same command goes on
            sys.exit(f"sousvit: {error}")

    if __name__ == "__main__":
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
            print("begun", file=sys.stderr, flush=True)
            main()
        except KeyboardInterrupt:
            sys.exit("interrupted")
""")
#: What is attacked, and how.
ATTACKS = {
    "driver killed": (signal.SIGKILL, "driver"),
    "worker killed": (signal.SIGKILL, "worker"),
    "driver and worker killed": (signal.SIGKILL, "both"),
    "interrupted (Ctrl-C)": (signal.SIGINT, "both"),
    "driver terminated": (signal.SIGTERM, "driver"),
}
#: A run is attacked so many times before it may end in peace.
ATTACKS_PER_RUN = 5
LONGEST = 60.0


def attacks(numbers: range, seed: int) -> Iterator[Outcome]:
    """Attacks on one run after another."""
    with tempfile.TemporaryDirectory() as folder:
        driver, budget = Path(folder, "driver.py"), Path(folder, "budget.yaml")
        driver.write_text(DRIVER)
        budget.write_text(yaml.safe_dump(BUDGET))
        command = [sys.executable, str(driver), str(budget)]
        begun = time.monotonic()
        wanted = _ended(command, Path(folder, "undisturbed"))
        usual = time.monotonic() - begun
        for number, told in grouped(numbers, ATTACKS_PER_RUN):
            run = Path(folder, str(number))
            yield from _one_run(command, run, wanted, usual, chance_of(seed, number))[told.start : told.stop]
            shutil.rmtree(run)


def _one_run(command: list[str], run: Path, wanted: dict[str, Any], usual: float, random: Random) -> list[Outcome]:
    """Attack one run, let it end, and compare; a finding counts for each attack on the run."""
    kinds, finding = [], ""
    for _ in range(ATTACKS_PER_RUN):
        kind = random.choice(list(ATTACKS))
        kinds.append(kind)
        before = _keys(run)
        finding = finding or _attack(command, run, kind, random.uniform(0.1, 0.9) * usual)
        lost = before.keys() - _keys(run).keys()
        finding = finding or (f"{len(lost)} finished trials were lost" if lost else "")
    ended = _ended(command, run)
    finding = finding or _difference(wanted, ended, _keys(run))
    return [Outcome(kind, finding) for kind in kinds]


def _attack(command: list[str], run: Path, kind: str, seconds: float) -> str:
    """One attack after ``seconds``; a driver that survives goes on to its end."""
    sent, target = ATTACKS[kind]
    process = subprocess.Popen(
        [*command, str(run), JUDGE],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        workers = _children(process.pid)
        for victim in {"driver": [], "worker": workers, "both": workers}[target]:
            _send(victim.pid, sent)
        if target != "worker":
            _send(process.pid, sent)
    try:
        _, said = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"no end within {LONGEST:.0f} s"
    last = said.strip().splitlines()[-1:]
    # Python's own words of a worker whose driver was killed in the moment in which it was starting it.
    is_orphan = target != "worker" and last == ["EOFError: Ran out of input"]
    is_early = BEGUN not in said and last == ["KeyboardInterrupt"]
    return "" if "Traceback" not in said or is_orphan or is_early else last[0]


def _children(process: int) -> list[psutil.Process]:
    try:
        return psutil.Process(process).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _send(process: int, sent: signal.Signals) -> None:
    try:
        os.kill(process, sent)
    except ProcessLookupError:
        return  # it ended by itself


def _ended(command: list[str], run: Path) -> dict[str, Any]:
    """The run's answer, once it has ended in peace."""
    whole = [*command, str(run), JUDGE]
    try:
        done = subprocess.run(whole, capture_output=True, text=True, timeout=4 * LONGEST, check=False)
    except subprocess.TimeoutExpired:
        return {"ended": f"no end within {4 * LONGEST:.0f} s"}
    if done.returncode:
        return {"ended": (done.stderr.strip().splitlines() or ["no word"])[-1]}
    answer: dict[str, Any] = json.loads((run / "answer.json").read_text())
    return answer


def _keys(run: Path) -> Counter[str]:
    """How often each trial stands in the log; a line that a kill cut short does not count."""
    log, found = run / "events.jsonl", Counter[str]()
    for line in log.read_text().splitlines() if log.is_file() else ():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if event.get("event") == "trial":
            found[event["trial"]["key"]] += 1
    return found


def _difference(wanted: dict[str, Any], ended: dict[str, Any], keys: Counter[str]) -> str:
    """What an attacked run has otherwise than the undisturbed one."""
    if "ended" in ended:
        return f"the run did not go on: {ended['ended']}"
    if max(keys.values()) > 1:
        return f"{sum(value > 1 for value in keys.values())} trials stand in the log twice"
    trials = BUDGET["search"]["trials"]  # type: ignore[index]
    if len(keys) != trials:
        return f"{len(keys)} trials instead of {trials}"
    own, other = (one["rows"][0]["recipe"] for one in (ended, wanted))
    return "" if own == other else f"another recipe: {own} instead of {other}"
