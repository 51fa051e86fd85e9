"""Trackers, each with its real library and local files."""

from __future__ import annotations

import inspect
import json
import sys
import threading
import time
from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from sousvit.errors import UserError
from sousvit.objectives.objective import Measurement
from sousvit.search.archive import Archive
from sousvit.search.budget import make_budget
from sousvit.search.callbacks import Callbacks, Counts
from sousvit.search.trackers import BUILTIN, tracker
from sousvit.search.trackers.tracker import TRACKERS, Tracker, open_trackers
from sousvit.search.trial import BaseRecord, Trial

RECIPE = {"steps": [{"technique": "prune_depth", "drop": 1}], "runtime": "onnxruntime"}
SETTINGS = {"model": "vit", "target": "local", "limits": "none", "run": "one"}
LATENCIES = (0.5, 0.4, 0.3)


def needs(module):
    return pytest.mark.skipif(
        find_spec(module) is None, reason=f"{module} is not installed: pip install sousvit[{module}]"
    )


def trial(number):
    values = {"latency_ratio": Measurement(LATENCIES[number]), "latency@board": Measurement(3.0)}
    return Trial(f"key{number}", RECIPE, 1.0, 0, "complete", values, seconds={"judge": 2.0})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "one run"
    with_one = Archive(folder, writable=True)
    with_one.add(trial(0))  # of an earlier session
    with_one.close()
    return folder


def follow(name, folder, told):
    """A search of two more trials, as a tracker hears of it."""
    [one] = open_trackers([name], folder, SETTINGS, told.append)
    one.on_start(BaseRecord({"latency_ratio": Measurement(1.0)}, {}, {}), None, {})
    for number in (1, 2):
        one.on_trial(trial(number), Counts())
    figures, answer = {"latency_ratio": Measurement(0.3)}, SimpleNamespace(chosen=trial(2))
    one.on_end(SimpleNamespace(figures=figures, answer=answer, status="holds"))


@needs("tensorboard")
def test_tensorboard_reads_every_trial(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told = []
    follow("tensorboard", folder, told)
    assert told == []
    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    steps = [(one.step, round(one.value, 3)) for one in found.Scalars("trial/latency_ratio")]
    assert steps == [(2, 0.4), (3, 0.3)]
    assert found.Scalars("answer/latency_ratio")[0].value == pytest.approx(0.3)
    assert found.Scalars("base/latency_ratio")[0].value == 1.0
    assert b"prune_depth" in found.Tensors("trial/text_summary")[0].tensor_proto.string_val[0]


@pytest.mark.slow
@needs("mlflow")
def test_mlflow_reads_every_trial(folder):
    from mlflow import MlflowClient

    told = []
    follow("mlflow", folder, told)
    assert told == []
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    [run] = client.search_runs([client.get_experiment_by_name("sousvit").experiment_id])
    assert run.info.run_name == "one run" and run.info.status == "FINISHED"
    steps = [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, "latency_ratio")]
    assert steps == [(2, 0.4), (3, 0.3)]
    assert run.data.metrics["answer_latency_ratio"] == 0.3 and run.data.metrics["latency/board"] == 3.0
    assert run.data.params["target"] == "local" and run.data.params["base_latency_ratio"] == "1"
    assert json.loads(run.data.tags["answer_recipe"]) == RECIPE


def records(data):
    """The records of a log in LevelDB's format behind a header of 7 bytes, as wandb writes it."""
    place, whole = 7, b""
    while place < len(data):
        left = 32768 - place % 32768
        if left < 7:  # too little room in this block for a record's head
            place += left
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        whole += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield whole
            whole = b""


@needs("wandb")
def test_wandb_writes_every_trial_offline(folder):
    from wandb.proto.wandb_internal_pb2 import Record

    told = []
    follow("wandb", folder, told)
    assert told == []
    [file] = folder.glob("wandb/offline-run-*/run-*.wandb")
    end, rows, summary, is_whole = time.monotonic() + 30, [], {}, False
    while not is_whole:  # wandb's own process writes the file, and may be a moment behind
        assert time.monotonic() < end
        rows.clear()
        for data in records(file.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            if record.history.item:
                rows.append({one.key or one.nested_key[0]: json.loads(one.value_json) for one in record.history.item})
            summary |= {one.key: one.value_json for one in record.summary.update}
            is_whole = is_whole or record.HasField("exit")
    assert [(row["_step"], row["latency_ratio"]) for row in rows] == [(2, 0.4), (3, 0.3)]
    assert json.loads(summary["answer_status"]) == "holds"


@pytest.mark.parametrize("name", BUILTIN)
def test_a_tracker_is_short(name):
    assert len(inspect.getsource(inspect.getmodule(TRACKERS.get(name))).splitlines()) <= 40


def test_a_library_that_is_missing_is_told_with_its_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    told = []
    follow("wandb", folder, told)
    [line] = told
    assert line.startswith("tracker wandb ended, the search goes on: ") and "pip install 'sousvit[wandb]'" in line


class Failing(Tracker):
    name, needs = "failing", "nothing"

    def begin(self, base):
        self.calls = ["begin"]

    def log(self, step, figures, texts):
        self.calls.append(step)
        raise OSError("the server\nis gone")

    def end(self, figures, texts):
        self.calls.append("end")


def test_one_that_fails_says_so_once_and_the_search_goes_on(tmp_path, simulated_search):
    told = []
    folder = tmp_path / "run"
    simulated_search(folder, search={"trials": 3})
    one = Failing(folder, SETTINGS, told.append)
    callbacks = Callbacks([one])
    callbacks.on_start(BaseRecord({"latency_ratio": Measurement(1.0)}, {}, {}), None, {})
    for number in (1, 2):
        callbacks.on_trial(trial(number), Counts())
    answer = SimpleNamespace(chosen=None)
    callbacks.on_end(SimpleNamespace(figures={}, answer=answer, status="infeasible"))
    assert one.calls == ["begin", 4]
    assert told == ["tracker failing ended, the search goes on: OSError: the server"]


def test_one_that_hangs_delays_no_trial_and_the_end_by_little(folder, monkeypatch):
    monkeypatch.setattr(tracker, "PATIENCE", 0.3)
    released = threading.Event()

    class Hanging(Failing):
        name = "hanging"

        def log(self, step, figures, texts):
            released.wait(30)

    told, begun = [], time.monotonic()
    one = Hanging(folder, SETTINGS, told.append)
    one.on_start(BaseRecord({"latency_ratio": Measurement(1.0)}, {}, {}), None, {})
    one.on_trial(trial(1), Counts())
    one.on_end(SimpleNamespace(figures={}, answer=SimpleNamespace(chosen=None), status="infeasible"))
    assert time.monotonic() - begun < 5
    assert told == ["tracker hanging ended, the search goes on: did not finish in 0.3 s"]
    one.close()
    assert len(told) == 1
    released.set()


def test_a_budget_names_trackers_and_its_identity_does_not_depend_on_them(simulated, tmp_path):
    one, other = simulated("a").budget, simulated("b", search={"trackers": ["tensorboard", "tensorboard"]}).budget
    assert other.search.trackers == ("tensorboard",) and one.identity == other.identity
    with pytest.raises(UserError, match="tracker must be a known name; received 'tensorbord'"):
        make_budget({**one.model_dump(), "search": {"trackers": ["tensorbord"]}}, tmp_path)


@pytest.mark.slow
@needs("tensorboard")
def test_a_search_from_python_is_tracked(tiny_project, tmp_path):
    import sousvit

    class Told(sousvit.Callback):
        lines: list[str] = []  # noqa: RUF012

        def on_message(self, text):
            self.lines.append(text)

    budget = tiny_project.write_budget(
        tmp_path / "budget.yaml",
        space={"techniques": {"prune_depth": {"drop": [0, 1]}}},
        search={"trials": 2, "leave_one_out": False, "measure_time": 0.05, "trackers": ["tensorboard", "mlflow"]},
    )
    found = sousvit.Search(budget, run=tmp_path / "run", executor="inline", callbacks=[Told()]).optimize()
    assert list((found.folder / "tensorboard").glob("events.*"))
    assert not [line for line in Told.lines if line.startswith("tracker tensorboard")]
    if find_spec("mlflow") is None:
        assert any(line.startswith("tracker mlflow ended") for line in Told.lines)
