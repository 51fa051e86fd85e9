"""Foreign artifacts that hang, grow or crash end with one line, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import time

import numpy as np
import onnx
import pytest

from sousvit.errors import TrialError
from sousvit.objectives.devices import process
from sousvit.objectives.devices.isolated import Isolated, open_isolated
from sousvit.objectives.devices.isolated_session import IsolatedSession
from sousvit.objectives.devices.standin import StandIn
from sousvit.objectives.runtimes.runtime import open_session
from sousvit.objectives.targets.target import Target
from tests.objectives.hostile_artifacts import SHAPE, external, loop_of, named_options, onnx_artifact

IMAGES = np.random.default_rng(0).standard_normal((3, *SHAPE[1:]), dtype=np.float32)
ENDLESS = loop_of(2**62)


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return onnx_artifact(tmp_path_factory.mktemp("honest"))


def test_an_isolated_session_gives_what_one_of_this_process_does(honest):
    with IsolatedSession(honest, 1, 60) as session, open_session(honest, 1) as own:
        for batch in (IMAGES, IMAGES[:1], IMAGES):
            assert np.array_equal(session.run(batch), own.run(batch))
        with pytest.raises(TrialError, match="ONNX Runtime failed"):
            session.run(IMAGES[:, :1])


def test_a_session_that_never_answers_is_ended(tmp_path):
    begun = time.monotonic()
    with IsolatedSession(onnx_artifact(tmp_path, ENDLESS), 1, 3) as session:
        with pytest.raises(TrialError, match="running the model failed: it took longer than 3 s"):
            session.run(IMAGES)
        assert time.monotonic() - begun < 20
        with pytest.raises(TrialError, match="running the model failed"):
            session.run(IMAGES)


def test_a_session_that_grows_without_end_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "most_memory", lambda: 600_000_000)
    growing = onnx_artifact(tmp_path, loop_of(40, "Concat"))
    with IsolatedSession(growing, 1, 60) as session, pytest.raises(TrialError, match="out of memory"):
        session.run(IMAGES)


def test_a_session_whose_process_crashes_says_by_what(honest):
    with IsolatedSession(honest, 1, 60) as session:
        os.kill(session._process.pid, signal.SIGSEGV)
        with pytest.raises(TrialError, match="its process was ended by SIGSEGV"):
            session.run(IMAGES)


def test_what_does_not_open_says_so_and_leaves_no_process(tmp_path):
    broken = onnx_artifact(tmp_path, lambda model: model.graph.node[1].ClearField("input"))
    with pytest.raises(TrialError, match="ONNX Runtime could not open the model"):
        IsolatedSession(broken, 1, 60)


def test_only_the_local_device_needs_another():
    assert isinstance(open_isolated(Target()), Isolated)
    assert isinstance(open_isolated(Target(device="stand-in", cores=1)), StandIn)


def test_every_measurement_ends_at_the_targets_time(tmp_path):
    device = open_isolated(Target(timeout=3))
    endless = onnx_artifact(tmp_path, ENDLESS)
    with pytest.raises(TrialError, match="timing took longer than 3 s"):
        device.time({"base": endless}, "base")
    with pytest.raises(TrialError, match="measuring memory took longer than 3 s"):
        device.probe(endless)


@pytest.mark.parametrize("command", ["measure"])
def test_the_command_line_ends_with_one_line(command, honest, tmp_path, run_sousvit):
    (tmp_path / "target.yaml").write_text("device: local\ntimeout: 3\n")
    endless = onnx_artifact(tmp_path / "endless", ENDLESS)
    optioned = named_options(
        onnx_artifact(tmp_path / "options"), {"session.optimized_model_filepath": str(tmp_path / "x")}
    )
    for artifact, words in ((endless, "timing took longer than 3 s"), (optioned, "options of onnxruntime are")):
        said = run_sousvit(command, artifact.folder, "--target", "target.yaml", cwd=tmp_path)
        assert said.returncode == 2 and words in said.stderr and said.stderr.count("\n") == 1, said.stderr
    assert not (tmp_path / "x").exists()
    said = run_sousvit(command, honest.folder, "--json", cwd=tmp_path)
    assert said.returncode == 0 and json.loads(said.stdout)["figures"]["latency_p50_ms"], said.stderr


@pytest.mark.slow
def test_verify_judges_a_foreign_artifact_elsewhere(tiny_project, tmp_path, run_sousvit):
    limits = {"accuracy_drop": 0.9, "size_ratio": 2.0}
    target = {"device": "local", "runtime": "onnxruntime", "timeout": 3}
    budget = tiny_project.write_budget(
        tmp_path / "budget.yaml", limits=limits, targets=[target], search={"measure_time": 0.05}
    )
    recipe = {"recipe": {"runtime": "onnxruntime", "steps": [{"technique": "prune_depth", "drop": 1}]}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    inputs = ("--model", tiny_project.checkpoint, "--data", budget)
    run_sousvit("apply", "recipe.yaml", "--out", "foreign", *inputs, cwd=tmp_path)
    graph = tmp_path / "foreign" / "model.onnx"
    model = onnx.load(graph)
    ENDLESS(model)
    graph.write_bytes(model.SerializeToString())
    said = run_sousvit("verify", "foreign", budget, cwd=tmp_path)
    words = "within the target's timeout and memory; received running the model failed: it took longer than 3 s"
    assert said.returncode == 2 and words in said.stderr.splitlines()[-1], said.stderr
    external(model.graph.initializer[0], "../secret")
    graph.write_bytes(model.SerializeToString())
    said = run_sousvit("verify", "foreign", budget, cwd=tmp_path)
    assert said.returncode == 2 and "holds all of its weights itself" in said.stderr.splitlines()[-1], said.stderr
