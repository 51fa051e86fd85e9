"""Artifacts of anyone are held to rules before a runtime sees them: options, files, and where weights lie."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from sousvit.errors import TrialError, UserError
from sousvit.objectives.runtimes.artifact_check import check_options
from sousvit.objectives.runtimes.runtime import check_artifact, get_runtime, open_session
from sousvit.spaces.export.artifact import Artifact
from sousvit.spaces.export.openvino import read_openvino, save_openvino
from tests.objectives.hostile_artifacts import EXTERNALS, SHAPE, onnx_artifact

IMAGES = np.zeros(SHAPE, np.float32)


@pytest.fixture
def openvino_artifact(tmp_path):
    folder = tmp_path / "openvino"
    folder.mkdir()
    save_openvino(read_openvino(onnx_artifact(tmp_path / "graph").path), folder)
    return Artifact(folder, "openvino", "model.xml", SHAPE).save()


def refused(artifact, words):
    """The check, and whatever opens it, refuse it in one line."""
    with pytest.raises(UserError, match=words) as raised:
        check_artifact(artifact)
    with pytest.raises(TrialError, match=words):
        open_session(artifact, 1)
    assert "\n" not in str(raised.value)


def with_options(artifact, **options):
    Artifact(artifact.folder, artifact.runtime, artifact.file, artifact.input_shape, options=options).save()
    return Artifact.open(artifact.folder)


def test_options_are_an_allow_list_with_known_values(openvino_artifact, tmp_path):
    cache = tmp_path / "cache"
    refused(with_options(openvino_artifact, CACHE_DIR=str(cache)), "options of openvino are INFERENCE_PRECISION_HINT")
    assert not cache.exists(), "OpenVINO would have written there"
    for value in ("fp8", True, 32, ["f32"], None):
        refused(with_options(openvino_artifact, INFERENCE_PRECISION_HINT=value), "is f32 or bf16 or f16")
    refused(with_options(openvino_artifact, DYNAMIC_QUANTIZATION_GROUP_SIZE=-1), "a number from 0 to 4096")
    good = with_options(openvino_artifact, INFERENCE_PRECISION_HINT="f32", DYNAMIC_QUANTIZATION_GROUP_SIZE=32)
    with open_session(good, 1) as session:
        assert session.run(IMAGES).shape == (1, 5)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "litert", "torch"])
def test_no_runtime_takes_an_option_that_it_does_not_name(name):
    runtime = get_runtime(name)
    for key in ("CACHE_DIR", "session.optimized_model_filepath", "session.register_custom_ops_library", ""):
        with pytest.raises(UserError, match=f"options of {name} are"):
            check_options(name, runtime.options, {key: "/tmp/x"})
    for values in runtime.options.values():
        assert "/tmp/x" not in values


@pytest.mark.parametrize("change", EXTERNALS.values(), ids=EXTERNALS.keys())
def test_weights_of_an_onnx_file_lie_nowhere_else(change, tmp_path):
    artifact = onnx_artifact(tmp_path / "artifact", change)
    (artifact.folder / "weights.bin").write_bytes(b"\0" * 4 * 768 * 5)
    refused(artifact, "holds all of its weights itself; received external data")


def test_openvino_opens_only_its_own_form(tmp_path):
    """It would choose the reader by the file's name, and read an ONNX file's memory marker."""
    artifact = onnx_artifact(tmp_path / "artifact", EXTERNALS["memory of the process"])
    refused(Artifact(artifact.folder, "openvino", "model.onnx", SHAPE), r"openvino opens \.xml files")
    artifact.path.rename(artifact.folder / "model.xml")
    refused(Artifact(artifact.folder, "openvino", "model.xml", SHAPE), "an OpenVINO artifact is a whole model.xml")


@pytest.mark.parametrize(
    "content", [b"", b"nothing", b"\x3a\xff\xff\xff\xff\x0f", b"\x0b", b"\x00\x00", b"\x3a\x02\x0a"]
)
def test_what_is_no_onnx_file_is_refused(content, tmp_path):
    artifact = onnx_artifact(tmp_path / "artifact")
    artifact.path.write_bytes(content)
    refused(artifact, "an ONNX artifact is an ONNX model")


def test_a_deep_onnx_file_is_refused_at_once(tmp_path):
    graph = b""
    for _ in range(5000):  # graph { node { attribute { g
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            graph = tag + varint(len(graph)) + graph
    artifact = onnx_artifact(tmp_path / "artifact")
    artifact.path.write_bytes(b"\x3a" + varint(len(graph)) + graph)
    refused(artifact, "nest too deep")


def varint(value):
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


@pytest.mark.parametrize(
    ("pattern", "new", "words"),
    [
        (r'offset="0"', f'offset="{2**64 - 8}"', "no count"),
        (r'offset="0"', 'offset="9999999999"', "a constant ends at byte"),
        (r'offset="0"', 'offset="-8"', "no count"),
        (r'size="15360"', 'size="15361"', "a constant ends at byte"),
        (r'shape="768,\s*5"', 'shape="4294967296,4294967296"', "has only 15360 bytes"),
        ("<net", "<!DOCTYPE net [<!ENTITY a 'b'>]><net", "declares a document type"),
        ("<net", "<web><net", "begins with 'web'"),
        ("</net>", "", "no element found"),
        ("<layers>", "<layers>" + "<a>" * 200, "too deep"),
    ],
)
def test_an_openvino_file_stays_within_its_weights(pattern, new, words, openvino_artifact):
    text = openvino_artifact.path.read_text()
    changed = re.sub(pattern, new, text, count=1)
    assert changed != text
    openvino_artifact.path.write_text(changed)
    refused(openvino_artifact, words)


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_links_and_pipes_are_no_files_of_an_artifact(kind, openvino_artifact, tmp_path):
    weights = openvino_artifact.folder / "model.bin"
    (tmp_path / "secret").write_bytes(weights.read_bytes())
    weights.unlink()
    weights.symlink_to(tmp_path / "secret") if kind == "link" else os.mkfifo(weights)
    refused(openvino_artifact, "holds plain files only")


def test_what_is_no_litert_file_is_refused(tmp_path):
    artifact = onnx_artifact(tmp_path / "artifact")
    artifact.path.rename(artifact.folder / "model.tflite")
    refused(Artifact(artifact.folder, "litert", "model.tflite", SHAPE), "is a TensorFlow Lite file")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"file": "../other/model.onnx"}, "file is the name of a file beside it"),
        ({"file": "/etc/passwd"}, "file is the name of a file beside it"),
        ({"input_shape": [1, 3, 60000, 60000]}, "an image has at most"),
        ({"input_shape": [1, 3, -1, 16]}, "input_shape is"),
        ({"input_shape": "1333"}, "input_shape is"),
        ({"mean": ["x"]}, "mean and std are numbers"),
        ({"mean": [float("nan")]}, "mean and std are numbers"),
        ({"options": ["CACHE_DIR"]}, "names with values"),
        ({"runtime": None}, "runtime is a name"),
        ({"batch_dependent": "no"}, "true or false"),
        ({"other": 1}, "other"),
    ],
)
def test_a_description_has_values_of_their_kind(change, words, tmp_path):
    artifact = onnx_artifact(tmp_path / "artifact")
    path = artifact.folder / "artifact.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=words) as raised:
        Artifact.open(artifact.folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", ["[1]", "[" * 10**5, "1" * 5000, '"x"', " " * (2 << 20)])
def test_a_description_that_is_none_is_refused(content, tmp_path):
    artifact = onnx_artifact(tmp_path / "artifact")
    (artifact.folder / "artifact.json").write_text(content)
    with pytest.raises(UserError, match=r"artifact\.json must be whole"):
        Artifact.open(artifact.folder)


def test_a_pipe_is_no_description(tmp_path):
    os.mkfifo(tmp_path / "artifact.json")
    with pytest.raises(UserError, match=r"a folder with artifact\.json"):
        Artifact.open(tmp_path)


def test_every_session_is_opened_behind_the_check():
    root = Path(__file__).parents[3]
    files = [file for room in ("spaces", "objectives", "search", "sousvit") for file in (root / room).rglob("*.py")]
    opening = {file.name for file in files if re.search(r"untime\.open\(", file.read_text())}
    assert opening == {"runtime.py", "conformance.py"}, "other code asks open_session, open_pool or opener"
    # A bundle's program, which is text here, opens the model that lies beside it.
    opens = r"(?<!``)(?<!MODEL = )torch\.export\.load\("
    assert not [file for file in files if re.search(opens, file.read_text())]
