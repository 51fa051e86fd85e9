"""The archive: durable, tolerant of torn lines, one writer; fronts and choices against brute force."""

from __future__ import annotations

import errno
import itertools
import json
import math
import multiprocessing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sousvit.errors import UserError
from sousvit.objectives.objective import Measurement
from sousvit.search.archive import EVENTS, Archive, Front
from sousvit.search.goals import Goals
from sousvit.search.limits import Limit, parse_limits
from sousvit.search.report.tables import trial_frame, write_tables
from sousvit.search.results import best, choose_among, nearest_miss
from sousvit.search.trial import BaseRecord, Trial, encode, trial_key

LIMITS = (Limit("accuracy_drop", 0.01, False), Limit("latency_ratio", 0.5, False))


def record(steps=("prune_mlp",), fidelity=1.0, status="complete", **values) -> Trial:
    recipe = {
        "runtime": "onnxruntime",
        "steps": [{"technique": name} for name in steps] + [{"technique": "x", **values}],
    }
    key = trial_key(recipe, fidelity, 0)
    recipe["steps"].pop()
    return Trial(key, recipe, fidelity, 0, status, {name: Measurement(value) for name, value in values.items()})


def test_records_survive_the_log_and_json(tmp_path):
    archive = Archive(tmp_path, writable=True)
    first = record(accuracy=0.9, latency_ratio=0.4)
    assert archive.add(first) and not archive.add(first)
    archive.close()
    assert list(Archive(tmp_path)) == [first]
    assert Trial.from_dict(json.loads(json.dumps(first.to_dict()))) == first


def test_rivals_are_what_the_front_shows_as_it_grows(tmp_path):
    archive, goals = Archive(tmp_path, writable=True), Goals(weights={"latency": 1.0, "accuracy": 1.0})
    shown = []
    for latency, accuracy in [(3.0, 0.8), (2.0, 0.7), (1.0, 0.9), (4.0, 0.6)]:
        known = len(archive)
        archive.add(record(latency=latency, accuracy=accuracy, size=1.0))
        assert [trial.get("latency") for trial in archive.since(known)] == [latency]
        shown.append(archive.rivals(goals))
        assert shown[-1] == tuple(
            {name: trial.get(name) for name in goals.directions} for trial in archive.front(goals)
        )
        stricter = Goals(parse_limits({"accuracy": 0.75}), goals.weights)
        held = archive.rivals(stricter)
        assert all(rival["accuracy"] >= 0.75 for rival in held), "other limits, other rivals"
    assert [len(rivals) for rivals in shown] == [1, 2, 1, 1]


def test_a_torn_last_line_costs_only_itself(tmp_path):
    archive = Archive(tmp_path, writable=True)
    trials = [record(accuracy=0.9 + index / 100) for index in range(3)]
    for trial in trials:
        archive.add(trial)
    archive.close()
    log = tmp_path / EVENTS
    log.write_bytes(log.read_bytes()[:-40])
    again = Archive(tmp_path, writable=True)
    assert list(again) == trials[:2]
    again.add(trials[2])
    again.close()
    assert list(Archive(tmp_path)) == trials


def _open_for_writing(folder, queue):
    try:
        Archive(folder, writable=True)
        queue.put("opened")
    except UserError as error:
        queue.put(str(error))


def test_a_second_writer_is_refused(tmp_path):
    archive = Archive(tmp_path, writable=True)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_open_for_writing, args=(tmp_path, queue))
    process.start()
    assert "one search writes to a run at a time" in queue.get(timeout=20)
    process.join()
    archive.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_one_clear_line_and_nothing_is_lost(tmp_path):
    archive = Archive(tmp_path, writable=True)
    archive.add(record(accuracy=0.9))
    log, archive._stream = archive._stream, Path("/dev/full").open("ab", buffering=0)  # noqa: SIM115 - the archive closes it
    with pytest.raises(UserError, match="disk must have free space"):
        archive.add(record(accuracy=0.8))
    archive.close()
    log.close()
    again = Archive(tmp_path, writable=True)
    assert [trial.get("accuracy") for trial in again] == [0.9]
    assert again.add(record(accuracy=0.8))


def test_what_broke_a_limit_when_measured_again_is_no_answer(tmp_path):
    archive = Archive(tmp_path, writable=True)
    first, second = record(accuracy=0.9), record(accuracy=0.8)
    for trial in (first, second):
        archive.add(trial)
    archive.append("rejected", key=first.key, broken=["accuracy"])
    for one in (archive, Archive(tmp_path)):
        assert [trial.key for trial in one.front(Goals((), {"accuracy": 1.0}))] == [second.key]


def test_what_was_rejected_for_one_limit_may_hold_a_looser_one(tmp_path):
    archive = Archive(tmp_path, writable=True)
    first = record(accuracy=0.9)
    archive.add(first)
    archive.append("rejected", key=first.key, values=encode({"accuracy": Measurement(0.85)}), broken=["accuracy"])
    for one in (archive, Archive(tmp_path)):
        assert one.is_rejected(first, Goals(parse_limits({"accuracy": 0.88})))
        assert not one.is_rejected(first, Goals(parse_limits({"accuracy": 0.8})))
        assert one.front(Goals(parse_limits({"accuracy": 0.8}), {"accuracy": 1.0})) == [first]
        assert one.front(Goals(parse_limits({"accuracy": 0.88}), {"accuracy": 1.0})) == []


def test_a_rejection_takes_a_trial_off_a_front_that_was_asked_for_before(tmp_path):
    archive, goals = Archive(tmp_path, writable=True), Goals((), {"accuracy": 1.0})
    first, second = record(accuracy=0.9), record(accuracy=0.8)
    for trial in (first, second):
        archive.add(trial)
    assert archive.front(goals) == [first]
    archive.append("rejected", key=first.key, broken=["accuracy"])
    assert archive.front(goals) == [second] and archive.rivals(goals) == ({"accuracy": 0.8},)


def test_single_techniques_have_a_front_of_their_own(tmp_path):
    archive, goals = Archive(tmp_path, writable=True), Goals((), {"accuracy": 1.0})
    single, hybrid = record(accuracy=0.8), record(("prune_mlp", "int8_dynamic"), accuracy=0.9)
    for trial in (single, hybrid):
        archive.add(trial)
    assert archive.front(goals) == [hybrid] and archive.front_of_singles(goals) == [single]
    assert archive.rivals(goals, singles_only=True) == ({"accuracy": 0.8},)


points = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)), max_size=30)


@given(points, st.randoms())
def test_the_front_is_the_brute_force_front_in_any_order(items, random):
    def dominates(a, b):
        return all(x <= y for x, y in zip(a, b, strict=True)) and a != b

    expected = {point for point in items if not any(dominates(other, point) for other in items)}
    random.shuffle(items)
    front: Front[tuple[int, ...]] = Front()
    for point in items:
        front.add(point, point)
    assert set(front.items) == expected
    assert len(front.items) == len(expected)


def test_low_rungs_failures_and_violations_are_kept_out_of_the_front(tmp_path):
    archive = Archive(tmp_path, writable=True)
    good = record(accuracy_drop=0.005, latency_ratio=0.4)
    archive.add(good)
    archive.add(record(accuracy_drop=0.001, latency_ratio=0.1, fidelity=0.25))
    archive.add(record(accuracy_drop=0.001, latency_ratio=0.1, status="failed"))
    archive.add(record(accuracy_drop=0.5, latency_ratio=0.1))
    assert archive.front(Goals(LIMITS, {"latency_ratio": 1.0})) == [good]


def test_unmeasured_limits_count_as_violated():
    assert Goals(LIMITS).violations(record(latency_ratio=0.1).values) == {"accuracy_drop": math.inf}


def test_choice_weighs_gains_over_the_base():
    base = {"accuracy": Measurement(0.9), "latency": Measurement(10.0), "size": Measurement(8.0)}
    fast, small = record(accuracy=0.9, latency=1.0, size=8.0), record(accuracy=0.9, latency=10.0, size=2.0)
    assert best([fast, small], Goals((), {"latency": 1.0, "size": 1.0}, base)) == fast
    assert best([fast, small], Goals((), {"latency": 1.0, "size": 3.0}, base)) == small
    assert Goals((), {"latency": 1.0}, base).score(fast.values) == pytest.approx(math.log(10))
    assert Goals((), {"accuracy": 1.0}, base).score(record(accuracy=0.95).values) == pytest.approx(math.log(1.5))


def test_nearest_miss_has_the_smallest_worst_violation():
    close, far = record(accuracy_drop=0.012, latency_ratio=0.4), record(accuracy_drop=0.0, latency_ratio=5.0)
    assert nearest_miss([far, close], Goals(LIMITS)) == close


@pytest.mark.parametrize(
    ("steps", "single"),
    [
        (("prune_mlp",), True),
        (("prune_mlp", "distill"), True),
        (("elastic", "distill_token", "prune_mlp", "distill"), True),
        (("of_a_plugin_that_is_not_loaded", "distill"), True),
        (("prune_mlp", "int8_dynamic"), False),
        (("distill",), False),
        ((), False),
    ],
)
def test_single_techniques_may_be_repaired(steps, single):
    assert record(steps).is_single is single


def test_best_single_falls_back_to_the_nearest_miss(tmp_path):
    archive = Archive(tmp_path, writable=True)
    archive.add(record(("prune_mlp",), accuracy_drop=0.2, latency_ratio=0.4))
    archive.add(record(("prune_mlp", "int8_dynamic"), accuracy_drop=0.0, latency_ratio=0.1))
    found = choose_among(list(archive), Goals(LIMITS)).single
    assert found is not None and found.techniques == ("prune_mlp",)


def test_tables_hold_every_trial(tmp_path):
    import pandas as pd

    archive = Archive(tmp_path, writable=True)
    for drop, ratio in itertools.product((0.001, 0.2), (0.2, 0.4)):
        archive.add(record(accuracy_drop=drop, latency_ratio=ratio))
    write_tables(archive, Goals(LIMITS, {"latency_ratio": 1.0}), tmp_path)
    frame = pd.read_parquet(tmp_path / "trials.parquet")
    assert len(frame) == 4 and frame["feasible"].sum() == 2
    assert len(pd.read_csv(tmp_path / "pareto.csv")) == 1
    assert list(trial_frame(archive, Goals(LIMITS))["key"]) == list(archive.trials)


def test_base_records_survive_json():
    base = BaseRecord({"accuracy": Measurement(0.9, 0.88, 0.92)}, {"x": 1}, {"cpu": "y"}, 1e-6)
    assert BaseRecord.from_dict(json.loads(json.dumps(base.to_dict()))) == base


def test_a_file_system_without_locks_is_told_and_goes_on(tmp_path, monkeypatch, capsys):
    import fcntl

    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    archive = Archive(tmp_path / "run", writable=True)
    archive.append("run", identity="x")
    archive.close()
    assert "without locks" in capsys.readouterr().err
    assert Archive(tmp_path / "run").header["identity"] == "x"
