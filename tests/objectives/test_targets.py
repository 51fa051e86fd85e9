from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from sousvit.common.device import available_cores
from sousvit.common.errors import UnknownNameError, UserError
from sousvit.common.schema import validated
from sousvit.objectives.targets.machine import machine_facts
from sousvit.objectives.targets.target import Target, list_targets, load_target


def test_shipped_profiles_load() -> None:
    assert list_targets() == ["local-1-thread", "local-all-threads"]
    for name in list_targets():
        assert load_target(name).device == "local"
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
        ({"device": "rpi5"}, "local in this release"),
        ({"runtime": "tensorrt"}, "runtime must be a known name"),
        ({"runtime": []}, "runtime"),
        ({"runtime": ["torch", "torch"]}, "once"),
        ({"threads": 0}, "threads"),
        ({"batch": 0}, "batch"),
        ({"cores": 2}, "cores"),
    ],
)
def test_wrong_targets(values: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        validated(Target, values, "target")


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
