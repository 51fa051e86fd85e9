"""Every deployment where files may not grow: a fault of the machine, whatever a tool makes of it."""

from __future__ import annotations

import pytest

from sousvit.errors import MissingPackageError, SharedInputError, TrialError
from sousvit.faults import faults_told
from sousvit.spaces.export.artifact import Artifact
from sousvit.spaces.export.export import make_artifact
from sousvit.spaces.export.exporter import get_exporter
from sousvit.spaces.recipe import Step
from sousvit.spaces.technique import DeployTechnique, techniques

#: Every way that a deployment technique offers, and every runtime's plain files. LiteRT's converter ends its process
#: where it cannot write; a worker that ends so is looked after by its executor (tests/search/executors).
WAYS = [(runtime, None) for runtime in ("onnxruntime", "openvino", "torch")]
WAYS += [
    (runtime, technique.name)
    for technique in techniques()
    if isinstance(technique, DeployTechnique)
    for runtime in technique.deployments
    if runtime != "litert"
]
IDS = [f"{runtime}-{technique or 'fp32'}" for runtime, technique in WAYS]
SHAPE = (1, 3, 16, 16)


@pytest.fixture
def parts(make_vit, make_context):
    model = make_vit().eval()
    return model, make_context(model, 8)


def deployed(parts, runtime, technique, folder) -> Artifact:
    model, context = parts
    step = None if technique is None else Step.make(technique)
    try:
        return make_artifact(model, SHAPE, (0.5,) * 3, (0.5,) * 3, runtime, step, context, folder)
    except MissingPackageError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("runtime", "technique"), WAYS, ids=IDS)
def test_files_that_may_not_grow_are_no_result(parts, runtime, technique, tmp_path, file_limit):
    whole = deployed(parts, runtime, technique, tmp_path / "whole")
    size = max(file.stat().st_size for file in whole.shipped_files)
    for limit in (8192, size - 1):
        with file_limit(limit), pytest.raises(SharedInputError, match=r"allowed to grow.*ulimit -f|whole files"):
            deployed(parts, runtime, technique, tmp_path / "cut")
        assert [path.name for path in tmp_path.iterdir()] == ["whole"], "half a file is left behind"


@pytest.mark.parametrize("technique", ["litert_dynamic", "fp16"])
def test_litert_s_quantizer_where_files_may_not_grow_is_no_result(parts, technique, tmp_path, file_limit):
    step = Step.make(technique)
    try:
        graph = get_exporter("litert").graph(parts[0], SHAPE, tmp_path)
    except MissingPackageError as error:
        pytest.skip(str(error))
    out = tmp_path / "out"
    out.mkdir()
    with file_limit(8192), pytest.raises(SharedInputError, match=r"allowed to grow"), faults_told(tmp_path):
        step.handler.deploy(graph, "litert", step.config, parts[1], out)


@pytest.mark.parametrize("technique", [None, "int8_dynamic", "weight_only", "static_int8", "fp16"])
def test_a_limit_that_only_the_tools_own_files_meet_is_no_result(parts, technique, tmp_path, file_limit):
    model, _ = parts
    graph = get_exporter("onnxruntime").graph(model, SHAPE, tmp_path)
    with file_limit(graph.stat().st_size):  # ONNX Runtime's quantizer writes the graph once more, with its shapes
        try:
            deployed(parts, "onnxruntime", technique, tmp_path / "artifact")
        except SharedInputError:
            assert technique is not None, "the graph itself fits"
        except TrialError as error:
            pytest.fail(f"recorded as a trial's own failure: {error}")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_file_that_was_cut_in_silence_is_seen(parts, runtime, share, tmp_path):
    whole = deployed(parts, runtime, None, tmp_path / "whole")
    exporter = get_exporter(runtime)
    assert exporter.is_whole(whole.path)
    for file in whole.shipped_files:
        content = file.read_bytes()
        file.write_bytes(content[: int(share * len(content))])
        assert not exporter.is_whole(whole.path), file.name
        file.write_bytes(content)
