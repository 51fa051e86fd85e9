"""Real searches in a real worker process on the tiny project: answers, resuming, misbehaving trials, exit codes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from sousvit.search.archive import Archive
from sousvit.search.budget import Budget
from sousvit.search.executors.executor import Job, MakeTable
from sousvit.search.executors.open import inline_executor, local_executor
from sousvit.search.report.page.gather import gather
from sousvit.search.stored.details_file import read_details
from sousvit.search.stored.lines import Lines, sealed_line
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.shape import read_shape

HERE = Path(__file__).parent
SPACE = {
    "techniques": {
        "prune_depth": {"drop": [0, 1, 2, 3]},
        "distill": {"epochs": [0, 1]},
        "int8_dynamic": {"weights": ["uint8"], "per_channel": [True]},
    }
}
SEARCH = {"trials": 6, "seed": 0, "explore_fidelity": 1.0, "measure_time": 0.1}


@pytest.fixture(scope="module")
def finished(tiny_project, tmp_path_factory, all_cores):
    """One finished run of two real processes on all cores, shared by the tests that only read it."""
    home = tmp_path_factory.mktemp("home")
    budget = tiny_project.write_budget(
        home / "budget.yaml",
        limits={"accuracy_drop": 0.3, "size_ratio": 0.9},
        optimize=["size", "accuracy"],
        space=SPACE,
        search=SEARCH,
    )
    command = [sys.executable, "-m", "sousvit", "search", str(budget), "--run", "one", "--json"]
    with all_cores():
        result = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr
    return home, json.loads(result.stdout)


def test_a_search_writes_its_run_folder_and_answers(finished):
    home, answer = finished
    run = home / "runs" / "one"
    for name in (
        "budget.yaml",
        "study.journal",
        "trials.parquet",
        "pareto.csv",
        "recipe.yaml",
        "report.html",
        "events.jsonl",
        "answer.json",
    ):
        assert (run / name).stat().st_size > 0, name
    rows = {row["role"]: row["values"] for row in answer["rows"]}
    assert {"base", "recipe"} <= set(rows)
    assert rows["recipe"]["size_ratio"][0] < 0.9
    assert rows["recipe"]["latency_ratio"][1] is not None and rows["recipe"]["accuracy_drop"][1] is not None
    assert answer["status"] in ("holds", "not shown on the test split")


def test_only_artifacts_on_the_front_are_kept(finished):
    home, _ = finished
    kept = {path.name for path in (home / "runs/one/artifacts").iterdir()}
    trials = {trial.artifact for trial in Archive(home / "runs/one") if trial.artifact}
    assert {"base", "recipe"} <= kept
    assert kept & trials and trials - kept


def test_the_test_split_is_read_once(finished):
    home, _ = finished
    events = [json.loads(line) for line in (home / "runs/one/events.jsonl").read_text().splitlines()]
    assert sum(event["event"] == "test_read" for event in events) == 1


def test_a_finished_run_asked_again_adds_nothing(finished, run_sousvit):
    home, _ = finished
    before = len(Archive(home / "runs/one"))
    result = run_sousvit("search", "--executor", "inline", home / "budget.yaml", "--run", "one", cwd=home)
    assert result.returncode == 0, result.stderr
    assert "recipe" in result.stdout
    assert len(Archive(home / "runs/one")) == before
    assert (home / "runs/one/events.jsonl").read_text().count('"event":"test_read"') == 1


def test_a_resumed_run_keeps_its_weights(finished, tiny_project, tmp_path, run_sousvit):
    home, _ = finished
    shutil.copytree(home / "runs", tmp_path / "runs")
    for file in (tiny_project.checkpoint, home / "budget.yaml"):
        shutil.copy(file, tmp_path / file.name)
    budget = yaml.safe_load((tmp_path / "budget.yaml").read_text())
    log = tmp_path / "runs/one/events.jsonl"
    events = list(Lines(log))
    for event in events:
        event.get("base", {}).update(fingerprint="other")
    log.write_bytes(b"".join(sealed_line(event, number) for number, event in enumerate(events, 1)))
    (tmp_path / "budget.yaml").write_text(yaml.safe_dump({**budget, "search": {**budget["search"], "trials": 9}}))
    result = run_sousvit("search", "--executor", "inline", "budget.yaml", "--run", "one", cwd=tmp_path)
    assert result.returncode == 2 and "the model and data it began with" in result.stderr


def test_another_budget_in_the_same_run_is_refused(finished, tiny_project, run_sousvit):
    home, _ = finished
    other = tiny_project.write_budget(home / "other.yaml", space=SPACE, search={**SEARCH, "seed": 5})
    result = run_sousvit("search", "--executor", "inline", other, "--run", "one", cwd=home)
    assert result.returncode == 2 and "a run keeps its budget" in result.stderr and "Traceback" not in result.stderr


def test_the_archive_answers_another_budget(finished, run_sousvit):
    home, _ = finished
    (home / "small.yaml").write_text("limits: {accuracy_drop: 0.9}\noptimize: [size]\n")
    result = run_sousvit("recipe", "one", "small.yaml", "--json", "--out", "out.yaml", cwd=home)
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    finals = [trial for trial in Archive(home / "runs/one") if trial.is_final]
    sizes = [trial.get("size") for trial in finals if trial.get("accuracy_drop") <= 0.9]
    assert answer["recipe"]["values"]["size"][0] == min(sizes)
    assert yaml.safe_load((home / "out.yaml").read_text())["recipe"] == answer["recipe"]["recipe"]
    (home / "space.yaml").write_text("space: training-free\noptimize: [size]\n")
    refused = run_sousvit("recipe", "one", "space.yaml", cwd=home)
    assert refused.returncode == 2 and "its own space" in refused.stderr


def test_an_impossible_budget_is_infeasible_with_its_nearest_miss(finished, run_sousvit):
    home, _ = finished
    (home / "hard.yaml").write_text("limits: {size_ratio: 0.001}\noptimize: [size]\n")
    result = run_sousvit("recipe", "one", "hard.yaml", cwd=home)
    assert result.returncode == 3
    assert "infeasible" in result.stdout and "size_ratio" in result.stdout


@pytest.mark.slow
def test_a_search_that_finds_nothing_writes_its_nearest_miss(tiny_project, tmp_path, run_sousvit):
    limits = {"size_ratio": 0.0001, "accuracy_drop": 0.3}
    search = {**SEARCH, "trials": 3}
    budget = tiny_project.write_budget(tmp_path / "budget.yaml", limits=limits, space=SPACE, search=search)
    result = run_sousvit("search", "--executor", "inline", budget, "--run", "r", cwd=tmp_path)
    assert result.returncode == 3, result.stderr
    assert "infeasible" in result.stdout and "size_ratio" in result.stdout
    written = yaml.safe_load((tmp_path / "runs/r/nearest-miss.yaml").read_text())
    assert written["status"] == "infeasible" and any("size_ratio" in phrase for phrase in written["violated"])
    assert not (tmp_path / "runs/r/recipe.yaml").exists()


@pytest.mark.slow
def test_a_hybrid_answer_says_what_each_technique_bought(tiny_project, tmp_path, run_sousvit):
    space = {"techniques": {"prune_depth": {"drop": [2]}, "int8_dynamic": {"per_channel": [True]}}}
    budget = tiny_project.write_budget(tmp_path / "budget.yaml", limits={"size_ratio": 0.5}, space=space, search=SEARCH)
    result = run_sousvit("search", "--executor", "inline", budget, "--run", "r", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = {row["role"]: row for row in json.loads(result.stdout)["rows"]}
    assert rows.keys() >= {"base", "recipe", "best single", "without prune_depth", "without int8_dynamic"}
    without = [step["technique"] for step in rows["without int8_dynamic"]["recipe"]["steps"]]
    assert without == ["prune_depth"]


@pytest.mark.slow
def test_an_elastic_base_is_prepared_once_and_its_cuts_are_read(tiny_project, tmp_path, run_sousvit):
    training = {"num_views": [1], "augmentation": ["none"]}
    space = {
        "elastic": {"epochs": [2], "pool": [2], **training},
        "prune_depth": {"drop": [0, 1, 2]},
        "distill": {"epochs": [2], **training},
        "int8_dynamic": {"weights": ["uint8"], "per_channel": [True]},
    }
    search = {**SEARCH, "trials": 6, "explore_fidelity": 0.5, "explore_share": 0.5, "leave_one_out": False}
    limits = {"size_ratio": 0.9, "accuracy_drop": 0.3}
    budget = tiny_project.write_budget(
        tmp_path / "budget.yaml", limits=limits, space={"techniques": space}, search=search
    )
    result = run_sousvit("search", "--executor", "inline", budget, "--run", "r", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    trials = [trial for trial in Archive(tmp_path / "runs/r") if "elastic" in trial.techniques]
    prepared = [trial for trial in trials if "prepare" in trial.seconds]
    assert len(prepared) == 1 and answer["cost"]["prepare_seconds"] == prepared[0].seconds["prepare"] > 0
    early = [trial for trial in trials if trial.fidelity == 0.0 and trial.status == "complete"]
    assert early and not any("recover" in trial.seconds for trial in early)
    assert answer["recipe"]["fidelity"] == 1.0
    assert [step["technique"] for step in answer["recipe"]["recipe"]["steps"]][:1] == ["elastic"]
    result = run_sousvit("apply", "runs/r/recipe.yaml", "--out", "applied", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    row = next(row for row in answer["rows"] if row["role"] == "recipe")["values"]
    assert json.loads(result.stdout)["figures"]["test_top1"][0] == pytest.approx(row["accuracy"][0], abs=0.02)


STEPS = (Step.make("prune_depth", drop=1), Step.make("distill", epochs=1), Step.make("int8_dynamic"))
PLAIN = Recipe(STEPS).to_dict()
SINGLE = Recipe(STEPS[:1]).to_dict()


@pytest.mark.parametrize(
    ("asked", "made", "skipped", "absent"),
    [
        ({}, [], [], []),
        ({"parts_seconds": 600.0}, ["int8_dynamic", "prune_depth", "distill"], [], []),
        ({"parts_seconds": 1e-9}, [], ["int8_dynamic", "prune_depth", "distill"], []),
        # Rows have to be timed and judged, too: there is time for one.
        ({"parts_seconds": 600.0, "row_seconds": 400.0}, ["int8_dynamic"], ["prune_depth", "distill"], []),
        # Without the pruning int8 alone is left, which trains nothing.
        ({"parts_seconds": 600.0, "training_seconds": 1e6}, ["int8_dynamic", "prune_depth", "distill"], [], []),
        (
            {"parts_seconds": 600.0, "instead": {"prune_depth": SINGLE}},
            ["prune_depth", "int8_dynamic", "distill"],
            [],
            [],
        ),
        ({"parts_seconds": 600.0, "instead": {"prune_depth": None}}, ["int8_dynamic", "distill"], [], ["prune_depth"]),
    ],
)
def test_parts_of_the_recipe_are_made_by_their_worth_as_far_as_their_time_goes(
    asked, made, skipped, absent, tiny_project, tmp_path
):
    budget = tiny_project.write_budget(tmp_path / "budget.yaml", space=SPACE, search=SEARCH)
    request = MakeTable(PLAIN, 1.0, single=None, retrain_base=False, **asked)
    (tmp_path / "run").mkdir()
    with inline_executor(Budget.read(budget), tmp_path / "run") as executor:
        executor.start(None)
        table = executor.call(request)
    assert [row.role for row in table.rows] == ["base", "recipe", *(f"without {name}" for name in made)]
    assert table.skipped == tuple(f"without {name}" for name in skipped)
    assert table.absent == tuple(f"without {name}" for name in absent)
    rows = {row.role: row.recipe for row in table.rows}
    if asked.get("instead", {}).get("prune_depth"):
        assert rows["without prune_depth"] == SINGLE, "the row is what stands for it"


def test_a_part_that_must_be_trained_is_not_begun_where_it_would_not_end_in_time(tiny_project, tmp_path):
    budget = tiny_project.write_budget(tmp_path / "budget.yaml", space=SPACE, search=SEARCH)
    pruned_twice = Recipe((STEPS[0], Step.make("prune_mlp", keep=0.5), *STEPS[1:])).to_dict()
    request = MakeTable(pruned_twice, 1.0, None, False, parts_seconds=600.0, training_seconds=1e6)
    (tmp_path / "run").mkdir()
    with inline_executor(Budget.read(budget), tmp_path / "run") as executor:
        executor.start(None)
        table = executor.call(request)
    assert set(table.skipped) == {"without prune_depth", "without prune_mlp"}
    assert [row.role for row in table.rows] == ["base", "recipe", "without int8_dynamic", "without distill"]


def test_the_answer_needs_neither_torch_nor_optuna(finished):
    home, _ = finished
    code = (
        "import sys\nfrom sousvit.cli.main import main\nsys.argv[1:] = ['recipe', 'one', 'small.yaml']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "heavy = {'torch', 'optuna'} & set(sys.modules)\nassert not heavy, heavy"
    )
    (home / "small.yaml").write_text("limits: {accuracy_drop: 0.9}\noptimize: [size]\n")
    result = subprocess.run([sys.executable, "-c", code], cwd=home, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_apply_reproduces_the_artifact_and_its_accuracy(finished, run_sousvit):
    home, answer = finished
    result = run_sousvit("apply", "runs/one/recipe.yaml", "--out", "applied", "--json", cwd=home)
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)["figures"]
    row = next(row for row in answer["rows"] if row["role"] == "recipe")["values"]
    assert figures["size_mb"] == pytest.approx(row["size"][0], rel=0.01)
    assert figures["test_top1"][0] == pytest.approx(row["accuracy"][0], abs=0.02)


def test_measure_compares_two_artifacts(finished, run_sousvit, measures_quickly):
    home, _ = finished
    result = run_sousvit(
        "measure", "runs/one/artifacts/recipe", "--baseline", "runs/one/artifacts/base", "--json", cwd=home
    )
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)["figures"]
    assert figures["ratio"][1] <= figures["ratio"][0] <= figures["ratio"][2]
    assert figures["size_ratio"] < 0.9 and figures["memory_mb"] > 0


def test_report_is_one_self_contained_page(finished):
    home, _ = finished
    page = (home / "runs/one/report.html").read_text()
    assert "<script src" not in page and page.count("<link") == page.count('<link rel="icon" href="data:,">') == 1
    assert all(f"<td>{role}</td>" in page for role in ("base", "recipe"))
    assert "accuracy_drop &lt;= 0.3" in page and len(page) < 1_500_000


def test_its_report_shows_what_the_answers_session_kept(finished):
    home, answer = finished
    run = home / "runs" / "one"
    details, shown = read_details(run), gather(run)
    recipe = next(row for row in answer["rows"] if row["role"] == "recipe")
    assert details is not None and {"base", "recipe"} <= set(details.latencies)
    base = next(row for row in answer["rows"] if row["role"] == "base")
    for one, row in ((details.latencies["base"], base), (details.latencies["recipe"], recipe)):
        assert all(latency.p50 <= latency.p95 <= latency.p99 for latency in one.values())
        assert row["values"]["latency"][0] == pytest.approx(next(iter(one.values())).p50, rel=0.5)
    count = sum(one.count for one in details.classes)
    assert sum(one.answer for one in details.classes) / count == pytest.approx(recipe["values"]["accuracy"][0])
    assert sum(one.base for one in details.classes) / count == pytest.approx(base["values"]["accuracy"][0])
    assert len(shown.pictures) == len(details.disagreements) == min(24, details.num_disagreements)
    assert all(one.base != one.answer for one in shown.pictures)
    assert not gather(run, with_images=False).pictures
    assert details.sensitivity and all(value >= 0 for value in details.sensitivity.values())
    shape = read_shape(details.shape)
    assert shape.params() / 1e6 == pytest.approx(recipe["values"]["params"][0])
    assert {cut.part for cut in shown.cuts} >= {"whole network", "block 1"}


def test_misbehaving_trials_fail_alone(tiny_project, tmp_path, forget_plugins):
    budget = tiny_project.write_budget(
        tmp_path / "budget.yaml",
        plugins={"objectives": [f"{HERE / 'trouble_objective.py'}:Trouble"]},
        optimize=["trouble"],
        limits={},
        space=SPACE,
        search={**SEARCH, "trial_memory_gb": 2.5},
    )
    (tmp_path / "run").mkdir()
    outcomes = {}
    with local_executor(Budget.read(budget), tmp_path / "run") as executor:
        base = executor.start(None)
        assert base.values["trouble"].value == 4.0
        for drop, timeout in ((0, 60.0), (1, 60.0), (2, 60.0), (3, 2.0), (0, 60.0)):
            recipe = Recipe((Step.make("prune_depth", drop=drop),)) if drop else Recipe()
            executor.submit(Job(f"{drop}-{len(outcomes)}", recipe.to_dict(), 1.0, 0, timeout, grace=1.0))
            outcome = executor.wait()
            outcomes[outcome.attempt] = outcome
        greedy = Recipe((Step.make("prune_mlp", keep=0.5),))
        executor.submit(Job("greedy", greedy.to_dict(), 1.0, 0, 60.0))
        assert "out of memory" in executor.wait().message
    status = {attempt: outcome.status for attempt, outcome in outcomes.items()}
    assert status == {"0-0": "complete", "1-1": "failed", "2-2": "failed", "3-3": "failed", "0-4": "complete"}
    assert "nan" in outcomes["1-1"].message
    assert "exit code 7" in outcomes["2-2"].message
    assert "no answer within" in outcomes["3-3"].message


@pytest.mark.slow
def test_kill_9_in_the_middle_loses_nothing(tiny_project, tmp_path, run_sousvit):
    budget = tiny_project.write_budget(
        tmp_path / "budget.yaml",
        limits={"accuracy_drop": 0.3},
        space=SPACE,
        search={**SEARCH, "trials": 5, "leave_one_out": False},
    )
    command = [sys.executable, "-m", "sousvit", "search", str(budget), "--run", "r"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = tmp_path / "runs/r/events.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and (not log.is_file() or log.read_text().count('"event":"trial"') < 2):
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = set(Archive(tmp_path / "runs/r").trials)
    assert len(finished) >= 2
    result = run_sousvit("search", "--executor", "inline", budget, "--run", "r", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    keys = [json.loads(line)["trial"]["key"] for line in log.read_text().splitlines() if '"event":"trial"' in line]
    assert finished <= set(keys) and len(keys) == len(set(keys)) == 5


def _heed_interrupts() -> None:
    """A suite that a shell started in the background hands down that Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_search_is_resumable(sent, tiny_project, tmp_path, run_sousvit):
    budget = tiny_project.write_budget(tmp_path / "budget.yaml", space=SPACE, search=SEARCH)
    command = [sys.executable, "-m", "sousvit", "search", str(budget), "--run", "r"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=tmp_path, preexec_fn=_heed_interrupts, **pipes)
    log = tmp_path / "runs/r/events.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and (not log.is_file() or '"event":"trial"' not in log.read_text()):
        time.sleep(0.2)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "go on with: sousvit resume r\n" in errors and "Traceback" not in errors
    before = set(Archive(tmp_path / "runs/r").trials)
    result = run_sousvit("resume", "r", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    after = Archive(tmp_path / "runs/r")
    assert before < set(after.trials) and after.own == SEARCH["trials"]
    assert json.loads(result.stdout)["rows"] and after.options["executor"] == "local"


@pytest.mark.slow
def test_a_search_and_its_answer_end_within_their_time(tiny_project, tmp_path):
    limits = {"accuracy_drop": 0.5}
    budget = tiny_project.write_budget(tmp_path / "b.yaml", limits=limits, space="default", search={"seed": 0})
    command = [sys.executable, "-m", "sousvit", "search", str(budget), "--run", "r", "--time", "60s", "--json"]
    begun = time.monotonic()
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    took = time.monotonic() - begun
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["rows"] and answer["cost"]["trials"] >= 1
    assert took <= 60 + 30, "far more than a busy machine explains"


def test_the_table_of_a_student_has_no_row_without_what_teaches_it(tiny_project, tmp_path):
    space = {"techniques": {"student": {"model": ["residual"], "width": [8]}, "distill": {}, "int8_dynamic": {}}}
    budget = tiny_project.write_budget(tmp_path / "budget.yaml", space=space, search=SEARCH)
    steps = (Step.make("student", model="residual", width=8), Step.make("distill", epochs=1), Step.make("fp16"))
    request = MakeTable(Recipe(steps).to_dict(), 1.0, None, False, parts_seconds=600.0)
    (tmp_path / "run").mkdir()
    with inline_executor(Budget.read(budget), tmp_path / "run") as executor:
        executor.start(None)
        table = executor.call(request)
    roles = [row.role for row in table.rows]
    assert roles[:2] == ["base", "recipe"] and set(roles[2:]) == {"without student", "without fp16"}
