"""Agents that answer what cannot be: each answer is refused, asked for again, and in the end fails the trial."""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sousvit.errors import SharedInputError, TrialError
from sousvit.objectives.devices.remote.agent import Agent
from sousvit.objectives.devices.remote.client import QUARANTINE_AFTER, TRIES, RemoteDevice
from sousvit.objectives.targets.target import Target
from sousvit.objectives.timing import TimingPlan

PLAN = TimingPlan(min_seconds=0.05, max_seconds=0.1, min_groups=9, round_seconds=0.002, warmup=1)


def inference_seconds(answer: dict[str, Any]) -> float:
    """Of all inferences that a timing holds; 0 for a memory probe."""
    groups = [group for found in answer.get("groups", {}).values() for group in found]
    return sum(sum(group[part]) for group in groups for part in ("candidate", "baseline_first", "baseline_last"))


class LyingAgent(Agent):
    """Measures for real, then changes its answer; the same order again is answered alike, after about as long."""

    honest: ClassVar[dict[str, dict[str, Any]]] = {}

    def __init__(self, folder: Path, lie: Callable[[dict[str, Any]], object]) -> None:
        super().__init__("127.0.0.1", 0, None, folder, 10**8)
        self.lie, self.asked = lie, 0

    def measure(self, given: Any, connection: Any) -> dict[str, Any]:
        nonce = given.pop("nonce")
        key = json.dumps(given, sort_keys=True)
        if key not in self.honest:
            self.honest[key] = super().measure(given, connection)
        else:
            time.sleep(2 * inference_seconds(self.honest[key]))  # some lies say twice as much
        answer = {**copy.deepcopy(self.honest[key]), "nonce": nonce}
        self.asked += 1
        self.lie(answer)
        return answer


@pytest.fixture
def lying(tmp_path: Path) -> Iterator[Callable[..., LyingAgent]]:
    agents: list[LyingAgent] = []

    def start(lie: Callable[[dict[str, Any]], object]) -> LyingAgent:
        agents.append(LyingAgent(tmp_path / str(len(agents)), lie))
        threading.Thread(target=agents[-1].serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return agents[-1]

    yield start
    for agent in agents:
        agent.shutdown()
        agent.server_close()


def device_of(agent: LyingAgent) -> RemoteDevice:
    address = f"http://127.0.0.1:{agent.server_port}"
    return RemoteDevice(Target.model_validate({"device": "board", "agent": address, "patience": 2}))


def scaled(part: str, factor: float) -> Callable[[dict[str, Any]], None]:
    def lie(answer: dict[str, Any]) -> None:
        for groups in answer["groups"].values():
            for group in groups:
                for name in group if part == "all" else [part]:
                    if name != "cpu_share":
                        group[name] = [factor * value for value in group[name]]

    return lie


LIES = {
    "echo": (lambda a: a["files"]["half"].update({"model.onnx": "0" * 64}), "not to what was sent"),
    "nonce": (lambda a: a.update(nonce="0"), "not to what was sent"),
    "fast": (scaled("all", 1e-4), "do not fill"),
    "slow": (scaled("all", 1e4), "cannot have been run"),
    "zero": (scaled("candidate", 0.0), "numbers above 0"),
    "nan": (scaled("candidate", float("nan")), "numbers above 0"),
    "negative": (scaled("baseline_first", -1.0), "numbers above 0"),
    "unsteady": (scaled("baseline_first", 2.0), "differs from itself"),
    "missing": (lambda a: a.update(groups={}), "were asked for"),
    "empty": (lambda a: a["groups"].update(half=[]), "were asked for"),
    "shapeless": (lambda a: a.update(groups=[1, 2]), "malformed"),
    "no facts": (lambda a: a.pop("facts"), "facts are incomplete"),
    "no groups": (lambda a: a.pop("groups"), "malformed"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_fails_the_trial(name: str, lying: Any, subject: Any) -> None:
    lie, words = LIES[name]
    agent = lying(lie)
    pair = {"half": subject.artifact, "base": subject.base.artifact}
    with pytest.raises(TrialError, match=f"cannot be trusted.*{words}"):
        device_of(agent).time(pair, "base", PLAN)
    assert agent.asked == TRIES


def test_an_honest_second_answer_is_taken(lying: Any, subject: Any) -> None:
    agent = lying(lambda answer: answer.update(nonce="0") if agent.asked == 1 else None)
    pair = {"half": subject.artifact, "base": subject.base.artifact}
    assert device_of(agent).time(pair, "base", PLAN)["half"].ratio > 0
    assert agent.asked == 2


def test_another_machine_behind_the_same_address_is_noticed(lying: Any, subject: Any) -> None:
    agent = lying(lambda answer: answer["facts"].update(cpu="another") if agent.asked > 1 else None)
    device, pair = device_of(agent), {"half": subject.artifact, "base": subject.base.artifact}
    device.time(pair, "base", PLAN)
    with pytest.raises(TrialError, match=r"another machine.*cpu changed"):
        device.time(pair, "base", PLAN)


def test_a_baseline_that_changes_beyond_belief_is_noticed(lying: Any, subject: Any) -> None:
    agent = lying(lambda answer: scaled("all", 0.1)(answer) if agent.asked > 1 else None)
    device, pair = device_of(agent), {"half": subject.artifact, "base": subject.base.artifact}
    device.time(pair, "base", PLAN)
    with pytest.raises(TrialError, match=r"do not fill|ms before and"):
        device.time(pair, "base", PLAN)


def test_a_liar_is_quarantined(lying: Any, subject: Any) -> None:
    agent = lying(lambda answer: answer.update(nonce="0"))
    device, pair = device_of(agent), {"half": subject.artifact, "base": subject.base.artifact}
    for _ in range(QUARANTINE_AFTER - 1):
        with pytest.raises(TrialError):
            device.time(pair, "base", PLAN)
    with pytest.raises(SharedInputError, match="cannot be trusted"):
        device.time(pair, "base", PLAN)
    asked = agent.asked
    with pytest.raises(SharedInputError):
        device.time(pair, "base", PLAN)
    assert agent.asked == asked, "it is not asked any more"


@pytest.mark.parametrize("lie", [{"memory_bytes": -1}, {"load_ms": float("inf")}, {"process_bytes": "much"}])
def test_absurd_memory_is_refused(lie: dict[str, Any], lying: Any, subject: Any) -> None:
    with pytest.raises(TrialError, match="cannot be trusted"):
        device_of(lying(lambda answer: answer.update(lie))).probe(subject.artifact)
