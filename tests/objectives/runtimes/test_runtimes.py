from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sousvit.errors import MissingPackageError, TrialError, UnknownNameError, UserError
from sousvit.objectives.devices.open import open_device
from sousvit.objectives.memory import probe_artifact
from sousvit.objectives.runtimes.conformance import check_sessions
from sousvit.objectives.runtimes.parity import check_parity, parity
from sousvit.objectives.runtimes.pool import open_pool
from sousvit.objectives.runtimes.runtime import Session, get_runtime, open_session
from sousvit.objectives.targets.profiles import make_target
from sousvit.spaces.context import Context
from sousvit.spaces.export.artifact import Artifact
from sousvit.spaces.export.export import make_artifact

SHAPE = (1, 3, 16, 16)
#: Ours, and one that a file brings.
RUNTIMES = ["onnxruntime", "openvino", "litert", "torch", "reference"]


@pytest.fixture(scope="module")
def artifacts(subject: Any, toy_runtime: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("runtimes")
    context = Context(lambda images: images.float())
    return {
        name: make_artifact(subject.model, SHAPE, (0.5,) * 3, (0.5,) * 3, name, None, context, folder / name)
        for name in RUNTIMES
    }


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((5, *SHAPE[1:]), dtype=np.float32)


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_runtime_runs_what_was_exported_as_pytorch_does_and_refuses_the_rest(
    name: str, artifacts: dict[str, Artifact], subject: Any
) -> None:
    check_sessions(get_runtime(name), artifacts[name], subject.model)


def test_unknown_and_missing_runtimes(artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'openvino'"):
        get_runtime("openvinos")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingPackageError, match=r"sousvit\[openvino\]"):
        open_session(artifacts["openvino"], 1)


def test_openvino_computes_in_fp32_unless_told(artifacts: dict[str, Artifact]) -> None:
    session: Any = open_session(artifacts["openvino"], 1)
    compiled = session._request.get_compiled_model()
    assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1


def test_openvino_reports_to_nobody() -> None:
    """It would from a forked process, as soon as it is imported."""
    code = """
import os
os.environ.pop("CI", None)
from sousvit.objectives.runtimes.runtime import get_runtime
get_runtime("openvino").require()
from openvino_telemetry import Telemetry
print(Telemetry().consent, "CI" in os.environ)
"""
    told = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True)
    assert told.stdout.split() == ["False", "False"]


def test_onnx_runtime_reports_to_nobody(artifacts: dict[str, Artifact], tmp_path: Path) -> None:
    """Its wheels for Linux do from version 1.29 on, and keep a number of the machine for it in the user's cache."""
    code = f"""
from pathlib import Path
from sousvit.objectives.runtimes.runtime import open_session
from sousvit.spaces.export.artifact import Artifact
open_session(Artifact.open(Path({str(artifacts["onnxruntime"].folder)!r})), 1).close()
"""
    places = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    switches = ("CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS")
    environment = {key: value for key, value in os.environ.items() if key not in switches}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env={**environment, **places})
    assert not list(tmp_path.iterdir())


def test_torch_keeps_the_thread_count_of_the_process(artifacts: dict[str, Artifact], images: np.ndarray) -> None:
    before = torch.get_num_threads()
    with open_session(artifacts["torch"], before + 1) as session:
        session.run(images)
    assert torch.get_num_threads() == before


def test_a_wrong_model_is_caught(artifacts: dict[str, Artifact], images: np.ndarray, subject: Any) -> None:
    with open_session(artifacts["onnxruntime"], 1) as session:
        with pytest.raises(TrialError, match="disagrees"):
            check_parity(session, subject.base.model, images, quantized=False)
        found = check_parity(session, subject.base.model, images, quantized=True)
        assert found.relative > 0.1 and found.max_abs > 0
        with pytest.raises(TrialError, match="predictions"):
            parity(session, nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 7)), images)


class Infinite(Session):
    def run(self, batch: np.ndarray) -> np.ndarray:
        return np.full((len(batch), 5), np.inf, np.float32)


def test_infinite_logits_are_caught_even_when_quantized(images: np.ndarray, subject: Any) -> None:
    with pytest.raises(TrialError, match="finite"):
        check_parity(Infinite(), subject.model, images, quantized=True)


def test_a_pool_gives_every_batch_in_its_order(artifacts):
    chance = np.random.default_rng(0)
    for name, artifact in artifacts.items():
        batches = [chance.normal(size=(count, *artifact.input_shape[1:])).astype(np.float32) for count in (2, 1, 3) * 5]
        with open_pool(artifact, 3) as pool, open_session(artifact, 1) as single:
            assert len(pool._sessions) == (3 if get_runtime(name).concurrent else 1)
            for found, batch in zip(pool.run_all(iter(batches)), batches, strict=True):
                np.testing.assert_allclose(found, single.run(batch), rtol=1e-4, atol=1e-4)


def test_a_pool_takes_few_batches_ahead_and_passes_errors_on(artifacts):
    artifact, taken = artifacts["onnxruntime"], []

    def batches():
        for place in range(50):
            taken.append(place)
            yield np.zeros((1, *artifact.input_shape[1:]) if place != 20 else (1, 2, 3), np.float32)

    with open_pool(artifact, 2) as pool:
        answers = pool.run_all(batches())
        next(answers)
        assert len(taken) < 10
        with pytest.raises(TrialError, match="failed"):
            list(answers)
        assert len(taken) < 40
        assert len(list(pool.run_all(iter([np.zeros((1, *artifact.input_shape[1:]), np.float32)])))) == 1


def test_a_session_alone_runs_batches_one_after_the_other(artifacts):
    artifact = artifacts["onnxruntime"]
    images = np.zeros((4, *artifact.input_shape[1:]), np.float32)
    with open_session(artifact, 1) as session:
        assert [len(found) for found in session.run_all([images, images[:1]])] == [4, 1]


def test_the_measuring_process_loads_the_plug_in_of_an_artifact(artifacts: dict[str, Artifact]) -> None:
    probe = probe_artifact(artifacts["reference"])
    assert probe.load_ms > 0 and 0 < probe.memory_bytes < probe.process_bytes
    assert probe.process_bytes < 200e6, "neither the plug-in nor the contract of its exporter loads torch"
    target = make_target({"device": "stand-in", "cores": 1, "runtime": "reference"}, Path())
    device = open_device(target)
    assert device.probe(artifacts["reference"]).load_ms > 0 and "reference" in device.check()["runtimes"]


def test_an_agent_that_lacks_a_runtime_says_so_in_one_line(artifacts: dict[str, Artifact], start_agent: Any) -> None:
    address = f"http://127.0.0.1:{start_agent().server_port}"
    device = open_device(make_target({"device": "board", "agent": address, "runtime": "reference"}, Path()))
    with pytest.raises(UserError, match="its runtimes must be installed on the device; received no reference there"):
        device.check()
    with pytest.raises(TrialError, match="the agent runs litert, onnxruntime, openvino, not reference"):
        device.probe(artifacts["reference"])
