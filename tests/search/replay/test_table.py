"""Tables that nobody tidied: limits of either side, holes, conditional and nullable columns, odd names and values."""

from __future__ import annotations

import random
from decimal import Decimal
from itertools import product

import numpy as np
import pandas as pd
import pytest
import yaml

from sousvit.checked import validated
from sousvit.errors import UserError
from sousvit.search.proposers.model_based import ModelBased
from sousvit.search.proposers.surrogate import Encoder
from sousvit.search.replay.compare import compare
from sousvit.search.replay.policies import replay, table_budget
from sousvit.search.replay.table import Table
from sousvit.search.replay.table_file import TableSpec


def sparse(count: int = 120) -> pd.DataFrame:
    """Rows of a space of 6**6 combinations; ``landmarks`` only where attention is approximated."""
    chance = np.random.default_rng(0)
    frame = pd.DataFrame({f"p{place}": chance.integers(0, 6, count) for place in range(5)}).drop_duplicates()
    frame["landmarks"] = [None if value == 0 else 8 * value for value in frame["p0"]]
    total = frame[[f"p{place}" for place in range(5)]].sum(axis=1)
    return frame.assign(cost=total - 10.0, quality=np.sin(total / 5) - 0.1 * frame["p0"]).reset_index(drop=True)


def spec(**changes) -> TableSpec:
    given = {
        "file": "t.csv",
        "parameters": [*(f"p{place}" for place in range(5)), "landmarks"],
        "objectives": {"quality": "maximize", "cost": "minimize"},
        "exact": ["cost"],
    }
    return validated(TableSpec, {**given, **changes}, "t.yaml")


@pytest.mark.parametrize("policy", ["sousvit", "no-model", "random"])
def test_every_row_of_a_table_with_holes_is_found(policy):
    table = Table(sparse(), spec())
    curve = replay(table, policy, len(sparse()), seed=0)
    assert len(curve.share) == len(sparse()) and curve.share[-1] == pytest.approx(1.0)


def test_rows_can_be_told_apart_by_their_hash():
    rows = list(Table(sparse(), spec()).recipes())
    assert len(set(map(hash, rows))) == len(rows) == len(sparse())
    assert len({*rows, *Table(sparse(), spec()).recipes()}) == len(rows)


@pytest.mark.parametrize("seed", [0, 3])
def test_the_ends_of_a_front_without_limits_are_found(seed):
    """Row 0, 0, 0 is cheapest and worst; little of what is drawn at first lies near it."""
    grid = np.array(list(product(range(8), repeat=3)))
    quality = np.sqrt(grid[:, 0]) + np.sqrt(grid[:, 1]) + grid[:, 2]
    frame = pd.DataFrame(grid, columns=list("abc")).assign(cost=grid.sum(1), quality=quality)
    curve = replay(Table(frame, spec(parameters=list("abc"), exact=[])), "sousvit", 40, seed=seed)
    assert curve.share[-1] > 0.99


def test_a_draw_is_a_row_and_keeps_what_is_known():
    space = Table(sparse(), spec()).space
    rows = [parameters for parameters, _ in space.suggestions()]
    generator = random.Random(0)
    for _ in range(50):
        known = {name: value for name, value in generator.choice(rows).items() if generator.random() < 0.3}
        drawn, recipe = space.draw(generator, known)
        assert drawn in rows and known.items() <= drawn.items()
        assert space.parameters(recipe, Table(sparse(), spec()).shape) == drawn
    assert space.draw(generator, {"row.p0": 99})[0] in rows


def test_numbers_that_may_be_missing_are_still_in_order():
    encode = Encoder([{"n": None}, {"n": 8}, {"n": 16}, {"n": 32}, {"w": None, "n": 8}])
    assert [encode({"n": value})[0] for value in (None, 8, 16, 32)] == [-1.0, 0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ({"quality": {"at_least": 0.0}}, lambda f: f["quality"] >= 0),
        ({"quality": 0.0, "cost": -1}, lambda f: (f["quality"] >= 0) & (f["cost"] <= -1)),
        ({"p1": {"at_least": 3}, "p2": {"at_most": 2}}, lambda f: (f["p1"] >= 3) & (f["p2"] <= 2)),
    ],
)
def test_limits_hold_on_their_side(limits, kept):
    table = Table(sparse(), spec(limits=limits))
    expected = sparse()[kept(sparse())]
    assert len(table.points()) == len(expected) > 0
    hard = {limit.name: limit.maximise for limit in table_budget(table, 5, 0).hard_limits}
    sides = {"quality": True, "cost": False, "p1": True, "p2": False}
    assert hard == {table.name_of(name): sides[name] for name in limits}
    curve = replay(table, "sousvit", len(sparse()), seed=0)
    assert curve.share[-1] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"p1": 3}, "says its side"),
        ({"quality": {"at_most": 1}}, "a limit on what is to maximize is at_least"),
        ({"cost": {"at_least": 1}}, "a limit on what is to minimize is at_most"),
        ({"cost": {}}, "a limit has one side"),
        ({"cost": {"at_most": 1, "at_least": 0}}, "a limit has one side"),
        ({"cost": float("nan")}, "finite"),
        ({"cost": "much"}, "limits.cost"),
        ({"cost": True}, "limits takes no true or false"),
    ],
)
def test_a_limit_that_means_nothing_is_told_in_one_line(limits, said):
    with pytest.raises(UserError, match=said):
        spec(limits=limits)


def test_limits_that_no_row_holds_are_told_before_anything_is_replayed(tmp_path):
    sparse().to_csv(tmp_path / "t.csv", index=False)
    plain = spec(limits={"cost": -100}).model_dump(mode="json", exclude_none=True)
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(plain))
    with pytest.raises(UserError, match="none does: cost -100"):
        compare(tmp_path / "t.yaml", ["random"], 5, 1)


@pytest.mark.parametrize(
    "column",
    [
        pd.array([1, None, 3, 4], dtype="Int64"),
        pd.array(["a", None, "c", "d"], dtype="string"),
        pd.Categorical(["a", "b", None, "d"]),
        pd.array([True, False, None, None], dtype="boolean"),
        np.array([1.5, np.nan, 2.5, 3.5]),
    ],
)
def test_nullable_columns_are_parameters(column, tmp_path):
    frame = pd.DataFrame({"p": column, "q": range(4), "x@y": pd.array([1, 2, 3, 4], dtype="Int64")})
    frame.to_parquet(tmp_path / "t.parquet")
    text = "{file: t.parquet, parameters: [p, q], objectives: {x@y: minimize}, limits: {x@y: 3}}"
    (tmp_path / "t.yaml").write_text(text)
    curve = replay(Table.read(tmp_path / "t.yaml"), "sousvit", 4, seed=0)
    assert curve.share[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("value", [[1, 2], pd.Timestamp("2026-01-01"), {"a": 1}, Decimal("1.5"), b"x"])
def test_a_value_that_is_no_parameter_is_named_with_its_row(value):
    with pytest.raises(UserError, match="p in row 2"):
        Table(pd.DataFrame({"p": pd.Series(["a", value], dtype=object), "x": [1.0, 2.0]}),
              spec(parameters=["p"], objectives={"x": "minimize"}, exact=[]))  # fmt: skip


def test_a_missing_figure_of_a_nullable_column_is_named():
    frame = pd.DataFrame({"p": [1, 2], "x": pd.array([1, None], dtype="Int64")})
    with pytest.raises(UserError, match="x in row 2"):
        Table(frame, spec(parameters=["p"], objectives={"x": "minimize"}, exact=[]))


def smooth() -> pd.DataFrame:
    """Rows whose figures all follow smoothly from three parameters, one of them negative."""
    grid = np.array([[a, b, c] for a in range(8) for b in range(8) for c in range(4)], dtype=float)
    a, b, c = grid.T
    quality, speed = np.tanh((a + b + c) / 8) - 0.02 * (a - b) ** 2, 1 / (1 + a + 0.5 * c)
    frame = pd.DataFrame(grid, columns=["a", "b", "c"])
    return frame.assign(quality=quality, speed=speed, size=a + b, loss=c - 5)


@pytest.mark.parametrize(
    ("objectives", "exact"),
    [
        ({"quality": "maximize", "speed": "maximize"}, []),
        ({"quality": "maximize", "speed": "maximize"}, ["speed"]),
        ({"quality": "maximize", "size": "minimize", "loss": "minimize"}, ["loss"]),
        ({"quality": "maximize", "speed": "maximize", "size": "minimize", "loss": "minimize"}, ["size", "loss"]),
        ({"size": "minimize", "loss": "minimize"}, ["size", "loss"]),
    ],
)
def test_whatever_is_asked_for_the_model_proposes_and_finds_more_than_chance(objectives, exact, monkeypatch):
    asked: list[bool] = []
    propose = ModelBased.propose

    def counted(self, *given):
        found = propose(self, *given)
        asked.append(found is not None)
        return found

    monkeypatch.setattr(ModelBased, "propose", counted)
    table = Table(smooth(), spec(parameters=["a", "b", "c"], objectives=objectives, exact=exact))
    ours = replay(table, "sousvit", 30, seed=0).share[-1]
    by_chance = np.mean([replay(table, "random", 30, seed=seed).share[-1] for seed in range(5)])
    assert asked.count(True) >= 15 and ours > by_chance


def test_a_table_in_gzip_is_the_same_and_what_is_read_is_told(tmp_path):
    said = []
    for name in ("t.csv", "t.csv.gz", "t.parquet"):
        frame = sparse()
        frame.to_parquet(tmp_path / name) if name.endswith("parquet") else frame.to_csv(tmp_path / name, index=False)
        described = spec(file=name).model_dump(mode="json", exclude_unset=True)
        (tmp_path / "t.yaml").write_text(yaml.safe_dump(described))
        table = Table.read(tmp_path / "t.yaml", lambda what, done, total: said.append(what))
        assert sorted(map(hash, table.recipes())) == sorted(map(hash, Table(sparse(), spec()).recipes()))
    rows = len(sparse())
    assert said[:3] == ["looking at t.csv", f"reading {rows} rows of t.csv", f"checking {rows} rows"] and len(said) == 9


def test_a_table_is_refused_by_its_first_look(tmp_path, monkeypatch):
    monkeypatch.setattr("sousvit.search.replay.rows.MOST_ROWS", 5)
    for name, words in (("t.csv", "at most 5 rows"), ("t.parquet", "at most 5 rows"), ("gone.csv", "must exist")):
        if words != "must exist":
            sparse().to_csv(tmp_path / name) if name.endswith("csv") else sparse().to_parquet(tmp_path / name)
        (tmp_path / "t.yaml").write_text(yaml.safe_dump(spec(file=name).model_dump(mode="json", exclude_unset=True)))
        with pytest.raises(UserError, match=words):
            Table.read(tmp_path / "t.yaml")
