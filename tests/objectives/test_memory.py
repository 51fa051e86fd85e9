from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sousvit.errors import TrialError
from sousvit.objectives.devices.protocol import MAX_BATCH
from sousvit.objectives.memory import probe_artifact
from sousvit.objectives.memory_probe import peak_bytes, resident_bytes


def test_memory_is_positive(subject: Any) -> None:
    assert 100_000 < subject.probe.memory_bytes < 2_000_000_000
    assert subject.probe.memory_bytes < subject.probe.process_bytes and 0 < subject.probe.load_ms < 10_000


def test_bigger_batches_need_more(subject: Any) -> None:
    assert probe_artifact(subject.artifact, batch=2000).memory_bytes > 10_000_000 + subject.probe.memory_bytes


def test_a_process_has_a_peak() -> None:
    assert 0 < resident_bytes() <= peak_bytes() * 1.05


def test_too_slow_is_a_failed_trial(subject: Any) -> None:
    with pytest.raises(TrialError, match="longer than"):  # so many images take seconds
        probe_artifact(subject.artifact, batch=MAX_BATCH, timeout=0.01)


def test_a_broken_artifact_is_a_failed_trial(subject: Any, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    broken = replace(subject.artifact, folder=tmp_path).save()
    with pytest.raises(TrialError, match="an ONNX artifact is an ONNX model"):
        probe_artifact(broken)


def test_the_measuring_process_does_not_load_torch() -> None:
    code = "import sys, sousvit.objectives.devices.measure; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
