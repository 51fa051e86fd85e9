"""A real agent in a process of its own on loopback: what it measures, and what happens when it is lost."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sousvit.errors import SharedInputError, TrialError, UserError
from sousvit.objectives.devices.remote import client
from sousvit.objectives.devices.remote.agent import Agent
from sousvit.objectives.devices.remote.client import RemoteDevice
from sousvit.objectives.devices.remote.names import is_loopback
from sousvit.objectives.timing import TimingPlan
from sousvit.spaces.export.artifact import Artifact

PLAN = TimingPlan(min_seconds=0.1, max_seconds=0.3, min_groups=9, round_seconds=0.002, warmup=1)
LONG = TimingPlan(min_seconds=20.0, max_seconds=30.0)
TOKEN = "a token of some length"
#: What a board has not, but for numpy and the runtimes.
ABSENT = ("torch", "timm", "pydantic", "yaml", "psutil", "typer", "optuna", "pandas", "safetensors", "onnx")


@pytest.fixture
def pair(subject: Any) -> dict[str, Artifact]:
    return {"half": subject.artifact, "base": subject.base.artifact}


def test_it_measures_with_nothing_but_numpy_and_the_runtimes(start_agent, pair, tmp_path) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({ABSENT!r}))\n")
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    agent = start_agent(environment={"PYTHONPATH": paths})
    device = RemoteDevice(agent.target())
    facts = device.check()
    assert facts["cpu"] and facts["cores"] >= 1 and "onnxruntime" in facts["runtimes"] and facts["date"]
    assert "torch" not in facts["runtimes"], "what strangers send is not opened as a torch program"
    timing = device.time(pair, "base", PLAN)["half"]
    assert 0 < timing.ratio_low <= timing.ratio <= timing.ratio_high and timing.p50_ms <= timing.p99_ms
    found = device.probe(pair["half"])
    assert 0 < found.memory_bytes < found.process_bytes and found.load_ms > 0


def test_a_file_is_sent_once(start_agent, pair) -> None:
    agent = start_agent()
    device = RemoteDevice(agent.target())
    timings = device.time(pair, "base", PLAN, with_baseline=True)
    assert set(timings) == {"half", "base"}
    sent = agent.uploads()
    assert sent == sum(len(artifact.shipped_files) for artifact in pair.values())
    device.time(pair, "base", PLAN)
    assert agent.uploads() == sent


def while_it_measures(agent: Any, pair: dict[str, Artifact], action: Callable[[], object]) -> threading.Thread:
    """Start a thread that acts shortly after the agent has got all files: its measuring process is starting then."""
    sent = sum(len(artifact.shipped_files) for artifact in pair.values())

    def act() -> None:
        while agent.uploads() < sent:
            time.sleep(0.02)
        time.sleep(0.2)
        action()

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


def test_a_restarted_device_gets_its_files_again(start_agent, pair) -> None:
    agent = start_agent()
    device = RemoteDevice(agent.target())
    device.time(pair, "base", PLAN)
    agent.kill()
    back = threading.Timer(0.5, agent.start)
    back.start()
    assert device.time(pair, "base", PLAN)["half"].ratio > 0
    back.join()


def test_a_device_killed_while_it_measures_fails_the_trial(start_agent, pair) -> None:
    agent = start_agent()
    device = RemoteDevice(agent.target(patience=1))
    killer = while_it_measures(agent, pair, agent.kill)
    with pytest.raises(TrialError, match="no answer from http"):
        device.time(pair, "base", LONG)
    killer.join()


def test_a_device_that_comes_back_in_time_measures_again(start_agent, pair) -> None:
    agent = start_agent()
    device = RemoteDevice(agent.target())

    def reboot() -> None:
        agent.kill()
        agent.start()

    rebooted = while_it_measures(agent, pair, reboot)
    assert device.time(pair, "base", PLAN)["half"].samples > 0
    rebooted.join()
    assert agent.uploads() == 2 * sum(len(artifact.shipped_files) for artifact in pair.values())


def test_a_measurement_that_takes_too_long_is_ended(start_agent, pair) -> None:
    device = RemoteDevice(start_agent().target(timeout=1))
    with pytest.raises(TrialError, match="took longer than 1 s"):
        device.time(pair, "base", LONG)
    assert device.time(pair, "base", PLAN)["half"].ratio > 0, "the device is free again"


def test_a_device_that_never_answers_is_quarantined(pair, monkeypatch) -> None:
    monkeypatch.setattr(client, "SHORT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        target = client_target(address, patience=0)
        device = RemoteDevice(target)
        for _ in range(client.QUARANTINE_AFTER - 1):
            with pytest.raises(TrialError, match="no answer"):
                device.time(pair, "base", PLAN)
        for _ in range(2):
            with pytest.raises(SharedInputError, match=r"3 measurements in a row failed.*device check"):
                device.time(pair, "base", PLAN)
        with pytest.raises(UserError, match="agent must answer"):
            device.facts()


def client_target(agent: str, **changes: Any) -> Any:
    from sousvit.objectives.targets.target import Target

    return Target.model_validate({"device": "board", "agent": agent, **changes})


def test_a_broken_model_is_its_own_failure(start_agent, pair, tmp_path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"nothing")
    broken = Artifact(folder, "onnxruntime", "model.onnx", pair["base"].input_shape).save()
    device = RemoteDevice(start_agent().target())
    for _ in range(client.QUARANTINE_AFTER + 1):
        with pytest.raises(TrialError, match="an ONNX artifact is an ONNX model"):
            device.time({"broken": broken, "base": pair["base"]}, "base", PLAN)
    assert device.time(pair, "base", PLAN)["half"].ratio > 0


def test_one_measurement_at_a_time_the_other_waits(start_agent, pair) -> None:
    agent = start_agent()
    first, second = (RemoteDevice(agent.target(patience=30)) for _ in range(2))
    answers: list[float] = []
    other = while_it_measures(agent, pair, lambda: answers.append(second.time(pair, "base", PLAN)["half"].ratio))
    assert first.time(pair, "base", PLAN)["half"].ratio > 0
    other.join()
    assert answers and answers[0] > 0


@pytest.mark.parametrize("token", [None, "another token of length"])
def test_a_wrong_token_is_one_clear_error(token, start_agent, pair, tmp_path) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    (tmp_path / "wrong").write_text(token or "")
    agent = start_agent("--token-file", str(tmp_path / "token"))
    wrong = {} if token is None else {"token_file": str(tmp_path / "wrong")}
    with pytest.raises(UserError, match=r"token must be given.*missing or wrong"):
        RemoteDevice(agent.target(**wrong)).facts()
    right = RemoteDevice(agent.target(token_file=str(tmp_path / "token")))
    assert right.time(pair, "base", PLAN)["half"].ratio > 0
    assert TOKEN not in agent.log.read_text()


def test_others_are_let_in_with_a_token_only(tmp_path) -> None:
    for host in ("0.0.0.0", "192.168.1.4", "board.local"):
        assert not is_loopback(host)
        with pytest.raises(UserError, match="needs a token"):
            Agent(host, 0, None, tmp_path, 1000)
    assert is_loopback("127.0.0.1") and is_loopback("localhost")
    (tmp_path / "short").write_text("abc")
    with pytest.raises(UserError, match="16 or more"):
        client_target("http://a:1", token_file=str(tmp_path / "short")).token()
    with pytest.raises(UserError, match="must be set"):
        client_target("http://a:1", token_env="NO_SUCH_TOKEN").token()


def test_an_upload_too_large_is_one_clear_error(start_agent, pair) -> None:
    device = RemoteDevice(start_agent("--max-gb", "0.00001").target())
    with pytest.raises(UserError, match=r"room for the file.*10000 bytes"):
        device.time(pair, "base", PLAN)


@pytest.mark.parametrize("agent", ["board:8765", "http://", "http://a:b", "http://a/x", "ftp://a:1", "http://u@a:1"])
def test_an_address_must_be_one(agent) -> None:
    with pytest.raises(UserError, match="http://HOST:PORT"):
        RemoteDevice(client_target(agent))


def test_another_kind_of_server_is_told(tmp_path: Path) -> None:
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        device = RemoteDevice(client_target(f"http://127.0.0.1:{server.server_port}"))
        with pytest.raises(UserError, match="no agent answers"):
            device.facts()
        server.shutdown()


def test_what_a_killed_agent_left_is_removed_by_the_next(start_agent, pair, tmp_path) -> None:
    agent = start_agent()
    RemoteDevice(agent.target()).time(pair, "base", PLAN)
    assert len(list(tmp_path.glob("sousvit-device-*"))) == 1
    agent.kill()
    agent.start()
    (left,) = tmp_path.glob("sousvit-device-*")
    assert not any(left.iterdir())
    agent.process.terminate()
    agent.process.wait(10)
    assert not list(tmp_path.glob("sousvit-device-*"))
