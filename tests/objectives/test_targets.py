from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from sousvit.checked import validated
from sousvit.errors import UnknownNameError, UserError
from sousvit.machine import available_cores
from sousvit.objectives.devices.machine import machine_facts
from sousvit.objectives.devices.protocol import MAX_BATCH, MAX_THREADS
from sousvit.objectives.targets.profiles import list_targets, load_target, make_target
from sousvit.objectives.targets.target import MOST_BATCH, MOST_IN_BATCH, MOST_THREADS, Target
from sousvit.spaces.export.artifact import MAX_INPUT


def test_shipped_profiles_load() -> None:
    local, standins = ["local-1-thread", "local-all-threads"], ["standin-1core-128mb", "standin-1core-512mb"]
    assert list_targets() == local + standins
    for name in list_targets():
        target = load_target(name)
        assert target.name == name and target.device == ("local" if name in local else "stand-in")
    for name in standins:
        assert "a stand-in, not the device" in load_target(name).summary
    assert load_target("local-1-thread").threads == 1
    assert load_target("local-all-threads").threads == available_cores()


def test_one_runtime_or_several() -> None:
    one = validated(Target, {"runtime": "openvino"}, "target")
    assert one.runtimes == ("openvino",) and one.threads == 1 and one.batch == 1
    assert validated(Target, {"runtime": ["onnxruntime", "torch"]}, "target").runtimes == ("onnxruntime", "torch")
    assert load_target("local/torch").runtimes == ("torch",)


def test_round_trip() -> None:
    target = Target(runtimes=("openvino",), threads=2, batch=8)
    assert Target.model_validate_json(target.model_dump_json(by_alias=True)) == target
    with pytest.raises(ValidationError):
        target.threads = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"device": "rpi5"}, "agent"),
        ({"cores": 1}, "device: local takes no cores; received cores: 1; remove it, or use agent or stand-in"),
        ({"device": "stand-in", "cores": 1, "threads": 2}, "a core for every thread"),
        ({"device": "stand-in", "memory": "512 KB"}, "512 MB"),
        ({"device": "stand-in", "agent": "http://a:1"}, "takes no agent"),
        ({"device": "agent"}, "named with its agent"),
        (
            {"device": "pi", "agent": "http://a:1", "runtime": "torch"},
            "hold code; received torch; name one of litert, onnxruntime, openvino",
        ),
        ({"runtime": ["onnxruntime", "litert"], "batch": 2}, "litert take one image at a time; received batch 2"),
        ({"device": "pi", "agent": "http://a:1", "threads": "all"}, "number"),
        ({"device": "pi", "agent": "http://a:1", "token_file": "a", "token_env": "b"}, "one place"),
        ({"name": "a b"}, "letters"),
        ({"runtime": "tensorrt"}, "runtime must be a known name"),
        ({"runtime": []}, "runtime"),
        ({"runtime": ["torch", "torch"]}, "once"),
        ({"threads": 0}, "threads"),
        ({"batch": 0}, "batch"),
        ({"kernels": 2}, "kernels"),
    ],
)
def test_wrong_targets(values: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        make_target(values, Path())
    assert "\n" not in str(caught.value)


def test_unknown_names_and_files(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="local-1-thread"):
        load_target("local-1-threads")
    with pytest.raises(UserError, match="must exist"):
        load_target("mine.yaml", tmp_path)
    (tmp_path / "mine.yaml").write_text("runtime: torch\nbatch: 4\n")
    assert load_target("mine.yaml", tmp_path).batch == 4


def test_machine_facts_are_plain_values() -> None:
    facts = machine_facts()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["cpu"] and facts["cores"] >= 1 and facts["memory_gb"] > 0 and "torch" in facts["versions"]


def test_a_batch_that_no_machine_holds_is_refused_by_arithmetic():
    Target(batch=64).require_room((3, 224, 224))
    with pytest.raises(UserError, match="a batch holds at most"):
        Target(batch=4096).require_room((3, 224, 224))


def test_a_target_asks_for_no_more_than_an_agent_grants():
    assert (MOST_BATCH, MOST_THREADS, MOST_IN_BATCH) == (MAX_BATCH, MAX_THREADS, MAX_INPUT)
