"""Real searches with more than one target: this machine, and a device behind an agent on loopback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

SPACE = {"techniques": {"prune_depth": {"drop": [0, 1, 2]}, "int8_dynamic": {"weights": ["uint8"]}}}
QUICK = {"measure_time": 0.1}
Finished = tuple[Path, dict[str, Any]]
SEARCH = {"trials": 5, "seed": 0, "leave_one_out": False, **QUICK}


@pytest.fixture(scope="module")
def agent() -> Any:
    command = [sys.executable, "-m", "sousvit", "device", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
        process.terminate()


@pytest.fixture(scope="module")
def finished(tiny_project: Any, agent: str, tmp_path_factory: pytest.TempPathFactory, run_sousvit: Any) -> Finished:
    home = tmp_path_factory.mktemp("home")
    profile = {"device": "board", "agent": agent, "runtime": "onnxruntime", "patience": 5}
    (home / "board.yaml").write_text(yaml.safe_dump(profile))
    budget = tiny_project.write_budget(
        home / "budget.yaml",
        targets=["local-1-thread", "board.yaml"],
        limits={"accuracy_drop": 0.5, "latency_ratio@board": 0.95},
        optimize=["latency@board", "size"],
        space=SPACE,
        search=SEARCH,
    )
    result = run_sousvit("search", "--executor", "inline", budget, "--run", "one", "--json", cwd=home)
    assert result.returncode == 0, result.stderr
    return home, json.loads(result.stdout)


def test_every_trial_has_figures_of_every_target(finished: Finished) -> None:
    home, _ = finished
    events = [json.loads(line) for line in (home / "runs/one/events.jsonl").read_text().splitlines()]
    trials = [event["trial"] for event in events if event["event"] == "trial"]
    measured = [trial["values"] for trial in trials if trial["status"] == "complete"]
    assert measured
    for values in measured:
        for name in ("latency", "latency_p99", "throughput", "latency_ratio"):
            assert values[name][0] > 0 and values[f"{name}@board"][0] > 0
            assert values[name] != values[f"{name}@board"], "each target is timed for itself"
    base = next(event["base"] for event in events if event["event"] == "base")
    assert set(base["timings"]) == {"local-1-thread", "board"} == set(base["machine"]["devices"])


def test_the_limit_of_the_named_target_holds(finished: Finished) -> None:
    _, answer = finished
    assert answer["status"] in ("holds", "not shown on the test split")
    ratio, _, high = answer["recipe"]["values"]["latency_ratio@board"]
    assert ratio < 0.95 and high is not None
    rows = {row["role"]: row["values"] for row in answer["rows"]}
    assert rows["recipe"]["latency_ratio@board"][0] < 1 and "latency_ratio" in rows["recipe"]


def test_the_table_and_the_report_show_each_target(finished: Finished, run_sousvit: Any) -> None:
    home, _ = finished
    shown = run_sousvit("search", "--executor", "inline", "budget.yaml", "--run", "one", "--wide", cwd=home)
    assert shown.returncode == 0, shown.stderr
    assert "p50 ms board" in shown.stdout and "speed-up board" in shown.stdout
    assert "p50 ms board" in (home / "runs/one/report.html").read_text()


def test_an_archive_answers_for_the_targets_it_measured(finished: Finished, run_sousvit: Any) -> None:
    home, _ = finished
    (home / "other.yaml").write_text(yaml.safe_dump({"limits": {"latency_ratio@board": 0.9}, "optimize": ["size"]}))
    assert run_sousvit("recipe", "one", "other.yaml", "--json", cwd=home).returncode in (0, 3)
    (home / "new.yaml").write_text(yaml.safe_dump({"targets": ["local-1-thread"], "optimize": ["size"]}))
    wrong = run_sousvit("recipe", "one", "new.yaml", cwd=home)
    assert wrong.returncode == 2 and "sousvit retarget" in wrong.stderr


def test_measuring_on_a_device(finished: Finished, run_sousvit: Any, measures_quickly: None) -> None:
    home, _ = finished
    artifacts = home / "runs/one/artifacts"
    measured = run_sousvit(
        "measure", artifacts / "recipe", "--baseline", artifacts / "base", "--target", "board.yaml", "--json", cwd=home
    )
    figures = json.loads(measured.stdout)["figures"]
    assert figures["ratio"][0] > 0 and figures["memory_mb"] > 0 and figures["load_time_ms"] > 0
    assert "board at" not in figures["target"] and "board" in figures["target"] and figures["machine"]


def test_checking_a_device(finished: Finished, run_sousvit: Any) -> None:
    home, _ = finished
    checked = run_sousvit("device", "check", "board.yaml", cwd=home)
    assert checked.returncode == 0 and "onnxruntime" in checked.stdout
    (home / "gone.yaml").write_text("{device: gone, agent: 'http://127.0.0.1:9', patience: 0}")
    gone = run_sousvit("device", "check", "gone.yaml", cwd=home)
    assert gone.returncode == 2 and gone.stderr.count("\n") == 1 and "its agent must answer" in gone.stderr


def test_energy_is_absent_with_a_clear_word(finished: Finished, tiny_project: Any, run_sousvit: Any) -> None:
    from sousvit.objectives.energy import find_meter

    home, _ = finished
    tiny_project.write_budget(home / "energy.yaml", optimize=["energy"], search=SEARCH, space=SPACE)
    asked = run_sousvit("search", "--executor", "inline", "energy.yaml", "--run", "energy", "--json", cwd=home)
    if find_meter() is None:
        assert asked.returncode == 2 and "energy must be measurable" in asked.stderr
    else:
        assert asked.returncode == 0


@pytest.mark.parametrize("name", ["standin-1core-128mb"])
def test_retargeting_answers_from_the_front(name: str, finished: Finished, run_sousvit: Any) -> None:
    home, _ = finished
    new = {"targets": [name], "limits": {"latency_ratio": 0.98}, "optimize": ["latency"], "search": QUICK}
    (home / "retarget.yaml").write_text(yaml.safe_dump(new))
    answered = run_sousvit("retarget", "one", "retarget.yaml", "--out", "recipe.yaml", "--json", cwd=home)
    assert answered.returncode == 0, answered.stderr
    answer = json.loads(answered.stdout)
    assert answer["recipe"]["values"]["latency_ratio"][0] < 0.98
    assert yaml.safe_load((home / "recipe.yaml").read_text())["target"]["device"] == "stand-in"
    assert run_sousvit("retarget", "one", "retarget.yaml", cwd=home).returncode == 0


def test_a_target_that_nothing_fits_is_infeasible(finished: Finished, run_sousvit: Any) -> None:
    home, _ = finished
    tiny = {"name": "tiny", "device": "stand-in", "memory": "10 MB"}
    (home / "tiny.yaml").write_text(yaml.safe_dump({"targets": [tiny], "optimize": ["latency"], "search": QUICK}))
    answered = run_sousvit("retarget", "one", "tiny.yaml", cwd=home)
    assert answered.returncode == 3 and "10 MB" in answered.stdout
