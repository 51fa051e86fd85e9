"""Recorded tables as spaces: reading, judging, replaying policies, and what bad tables say."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from sousvit.errors import UserError
from sousvit.search.executors.executor import Job, make_job
from sousvit.search.replay.curves import Hypervolume, interval
from sousvit.search.replay.policies import ABLATIONS, POLICIES, Replay, replay, table_budget
from sousvit.search.replay.samplers import SAMPLERS, run_sampler
from sousvit.search.replay.table import Table, TableSpec
from sousvit.search.trial import Trial
from sousvit.spaces.recipe import Recipe


def rows() -> pd.DataFrame:
    found = []
    for depth, width, kind in product((2, 4, 6, 8), (16, 32, 48, 64), ("plain", "wide")):
        macs = depth * width * (2.0 if kind == "wide" else 1.0)
        found.append({"depth": depth, "width": width, "kind": kind, "macs": macs, "accuracy": 1 - 8 / (depth + width)})
    return pd.DataFrame(found)


def spec(**changes) -> TableSpec:
    given = {
        "file": "t.csv",
        "parameters": ["depth", "width", "kind"],
        "objectives": {"accuracy": "maximize", "macs": "minimize"},
        "exact": ["macs"],
    }
    return TableSpec.model_validate({**given, **changes})


@pytest.fixture
def table() -> Table:
    return Table(rows(), spec())


def job(table: Table, recipe: Recipe, fidelity: float = 1.0, seed: int = 0) -> Job:
    return make_job(Trial.pending(recipe, fidelity, seed), table_budget(table, 9, seed).search)


def test_every_configuration_is_a_recipe_with_its_recorded_figures(table):
    recipes = list(table.recipes())
    assert len(recipes) == len(rows()) == table.space.size
    recipe = next(r for r in recipes if r.parameters == {"depth": 4, "width": 32, "kind": "wide"})
    result = table.judge(job(table, recipe))
    assert result.values[table.name_of("macs")].value == 256
    assert recipe.reshape(table.shape).figures(4.0) == {table.name_of("macs"): 256}
    assert table.space.parameters(recipe, table.shape) == {"row.depth": 4, "row.width": 32, "row.kind": "wide"}


def test_a_table_is_read_from_csv_and_parquet_with_a_column_called_technique(tmp_path):
    frame = rows().rename(columns={"kind": "technique"})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        text = f"{{file: {name}, parameters: [depth, width, technique], objectives: {{accuracy: maximize}}}}"
        (tmp_path / "table.yaml").write_text(text)
        read = Table.read(tmp_path / "table.yaml")
        recipe = next(read.recipes())
        again = Recipe.from_dict(recipe.to_dict())
        assert read.judge(job(read, again)).status == "complete"


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_that_sees_everything_reaches_everything(table, policy):
    curve = replay(table, policy, len(rows()), seed=1)
    assert np.all(np.diff(curve.share) >= -1e-12) and np.all(np.diff(curve.seconds) >= 0)
    if policy in ("sousvit", "random"):  # the others repeat themselves
        assert curve.share[-1] == pytest.approx(1.0)
    assert 0 < curve.at_evaluation(1) < 1 and curve.at_second(0.5) == 0.0


@pytest.mark.parametrize("policy", ["sousvit", "tpe", "random"])
def test_a_policy_ends_with_its_recorded_seconds(policy):
    timed = Table(rows().assign(cost=10.0), spec(seconds="cost"))
    curve = replay(timed, policy, 32, seed=0, seconds=75.0)
    assert len(curve.seconds) == 8 and 75 <= curve.seconds[-1] < 90
    assert curve.at_second(75.0) == curve.share[6]


@pytest.mark.parametrize("policy", ABLATIONS)
def test_a_lever_can_be_turned_off(policy):
    levels = [rows().assign(share=share, accuracy=rows()["accuracy"] * (0.5 + share / 2)) for share in (0, 0.25, 1)]
    table = Table(pd.concat(levels), spec(fidelity="share"))
    run = Replay(table, 30, seed=0)
    ABLATIONS[policy](run)
    seen = {record.fidelity for record in run.found}
    assert seen == {"no-model": {0.0, 1.0}, "no-rungs": {1.0}, "no-untrained-rung": {0.25, 1.0}}[policy]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_plain_sampler_pays_for_no_recipe_twice(table, name):
    if name == "qlognehvi":
        pytest.importorskip("botorch")
        pytest.importorskip("optuna_integration")
    run = Replay(table, 24, seed=3)
    run_sampler(name, run)
    assert 8 <= run.paid <= 24 and len({record.key for record in run.found}) == run.paid


def test_limits_hold_in_the_front_and_in_its_volume():
    limited = Table(rows(), spec(limits={"macs": 200}))
    assert limited.points()[:, 1].max() <= 200
    curve = replay(limited, "random", 32, seed=0)
    assert curve.share[-1] == pytest.approx(1.0) and len(curve.share) == 32


def test_configurations_that_were_not_recorded_cost_nothing():
    holes = Table(rows().sample(20, random_state=0), spec())
    for policy in POLICIES:
        curve = replay(holes, policy, 15, seed=0)
        assert 5 <= len(curve.share) <= 15, policy
        assert policy not in ("sousvit", "random") or len(curve.share) == 15


def test_seeds_and_fidelities_choose_among_repeated_rows():
    parts = []
    for seed, share in product((0, 1), (0.25, 1.0)):
        part = rows().assign(seed=seed, share=share, cost=100 * share)
        parts.append(part.assign(accuracy=part["accuracy"] * (0.8 + 0.2 * share) - 0.001 * seed))
    table = Table(pd.concat(parts), spec(seed="seed", fidelity="share", seconds="cost"))
    assert table.fidelities == [0.25, 1.0] and len(table.points()) == 32
    recipe = next(table.recipes())
    name = table.name_of("accuracy")
    full, other, low = (
        table.judge(job(table, recipe, level, seed)).values[name].value
        for seed, level in ((0, 1.0), (1, 1.0), (0, 0.25))
    )
    assert full == pytest.approx(other + 0.001) and low == pytest.approx(0.85 * full)
    curve = replay(table, "sousvit", 40, seed=0)
    # Shares are of the mean over seeds: one seed's luck may lie a little above it.
    assert curve.seconds[-1] > 40 * 25 and 0 < curve.share[-1] <= 1.01


@pytest.mark.parametrize(
    ("recorded", "ladder"),
    [
        ((0.25, 1.0), (0.25, 4.0)),
        ((0.0, 0.25, 1.0), (0.0, 4.0)),
        ((0.125, 0.25, 0.5, 1.0), (0.125, 4.0)),
        ((0.1, 0.3, 1.0), (0.1, 10.0)),
        ((0.0, 1.0), (0.0, 4.0)),
    ],
)
def test_the_engine_climbs_rungs_that_were_recorded(recorded, ladder):
    parts = [rows().assign(share=share, accuracy=rows()["accuracy"] * (0.5 + share / 2)) for share in recorded]
    table = Table(pd.concat(parts), spec(fidelity="share"))
    assert table.ladder == ladder
    curve = replay(table, "sousvit", 40, seed=0)
    assert curve.share[-1] > 0


def test_the_hypervolume_does_not_depend_on_units_or_order():
    points = rows()[["accuracy", "macs"]].to_numpy()
    part = points[::5]
    share = Hypervolume(points, ["maximize", "minimize"]).share(part)
    scaled = Hypervolume(points * [100, 1e-3], ["maximize", "minimize"]).share((part * [100, 1e-3])[::-1])
    assert share == pytest.approx(scaled) and 0 < share < 1
    mean, low, high = interval([0.8, 0.9, 1.0])
    assert low < mean < high


@pytest.mark.parametrize(
    ("change", "broken", "said"),
    [
        ({"parameters": ["deep"]}, None, "every column that is named"),
        ({}, lambda frame: frame.iloc[:0], "has rows"),
        ({}, lambda frame: pd.concat([frame, frame[:1]]), "recorded once"),
        ({}, lambda frame: frame.assign(macs=np.nan), "finite numbers"),
        ({"exact": ["macs"], "seed": "s"}, lambda f: pd.concat([f.assign(s=0), f.assign(s=1, macs=0)]), "exact"),
        ({"fidelity": "depth"}, None, "fidelities lie"),
        ({"fidelity": "share"}, lambda f: f.assign(share=0.25), "final rows"),
    ],
)  # fmt: skip
def test_a_bad_table_gives_one_clear_line(change, broken, said):
    with pytest.raises(UserError, match=said):
        Table(rows() if broken is None else broken(rows()), spec(**change))


def test_a_missing_file_is_named(tmp_path: Path):
    (tmp_path / "t.yaml").write_text("{file: no.csv, parameters: [a], objectives: {b: minimize}}")
    with pytest.raises(UserError, match=r"no\.csv"):
        Table.read(tmp_path / "t.yaml")


def test_the_command_prints_shares_and_writes_every_curve(tmp_path):
    rows().to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(spec().model_dump(mode="json", exclude_none=True)))
    command = [sys.executable, "-m", "sousvit", "replay", "t.yaml"]
    options = ["--policy", "random", "--evaluations", "12", "--seeds", "2", "--out", "out"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "| random |" in done.stdout, done.stderr
    curves = json.loads((tmp_path / "out/replay.json").read_text())["policies"]["random"]
    assert [len(curve["share"]) for curve in curves] == [12, 12]
    wrong = subprocess.run([*command, "--policy", "x"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert wrong.returncode == 2 and "policy must be a known name" in wrong.stderr and "Traceback" not in wrong.stderr
