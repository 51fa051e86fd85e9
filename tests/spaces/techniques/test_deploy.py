from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from sousvit.data import ImageSet
from sousvit.errors import MissingPackageError, TrialError, UserError
from sousvit.machine import computes_bf16
from sousvit.models.load import normalise
from sousvit.objectives.runtimes.parity import check_parity
from sousvit.objectives.runtimes.runtime import open_session
from sousvit.spaces.context import Context
from sousvit.spaces.export.artifact import DESCRIPTION, Artifact
from sousvit.spaces.export.export import make_artifact
from sousvit.spaces.export.onnx import export_onnx, graph_input_shape
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.technique import DeployTechnique, techniques

SHAPE = (1, 3, 32, 32)
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.25, 0.25)

#: (runtime, technique or None, parameters, largest relative error expected)
CASES: list[tuple[str, str | None, dict[str, Any], float]] = [
    ("onnxruntime", None, {}, 1e-4),
    ("openvino", None, {}, 1e-4),
    ("litert", None, {}, 1e-4),
    ("torch", None, {}, 1e-4),
    ("onnxruntime", "int8_dynamic", {}, 0.1),
    ("onnxruntime", "int8_dynamic", {"weights": "int7"}, 0.2),
    ("onnxruntime", "int8_dynamic", {"weights": "uint8", "per_channel": False}, 0.2),
    ("onnxruntime", "weight_only", {"bits": 8}, 0.1),
    ("onnxruntime", "weight_only", {"bits": 4, "group_size": 16}, 0.45),
    ("openvino", "weight_only", {"bits": 8}, 0.1),
    ("openvino", "weight_only", {"bits": 4}, 0.45),
    ("openvino", "ptq_int8", {}, 0.3),
    ("openvino", "ptq_int8", {"preset": "mixed", "smooth_quant": False, "hint": "bf16"}, 0.3),
    ("onnxruntime", "static_int8", {}, 0.3),
    ("onnxruntime", "static_int8", {"weights": "int7", "clip": "minmax", "smoothing": "none"}, 0.3),
    ("openvino", "static_int8", {"smoothing": "smooth", "float_blocks": 1}, 0.3),
    ("onnxruntime", "fp16", {}, 0.01),
    ("openvino", "fp16", {}, 0.01),
    ("litert", "fp16", {}, 0.01),
    ("litert", "litert_dynamic", {}, 0.1),
    ("litert", "litert_dynamic", {"bits": 4}, 0.45),
    ("openvino", "bf16", {}, 0.05),
    ("openvino", "bf16", {"store": "fp32"}, 0.05),
]
IDS = ["-".join([runtime, technique or "fp32", *map(str, values.values())]) for runtime, technique, values, _ in CASES]
FILES = {
    "onnxruntime": {"model.onnx"},
    "openvino": {"model.xml", "model.bin"},
    "litert": {"model.tflite"},
    "torch": {"model.pt2"},
}


def scale(images: torch.Tensor) -> torch.Tensor:
    return normalise(images, MEAN, STD)


class NoiseSource:
    name, fingerprint, class_names = "noise", "noise", ["a"]
    pixels = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3)).astype(np.uint8)
    labels = np.zeros(16, np.int64)

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index])


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    # 48 channels: no multiple of the default group, as in pruned models.
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=48, num_heads=3, depth=2, num_classes=10
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, float(parameter.ndim == 1), std=0.12)
    return model.eval()


@pytest.fixture(scope="module")
def context() -> Context:
    return Context(scale, calibration=ImageSet(NoiseSource(), np.arange(16), (32, 32)))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return scale(torch.from_numpy(NoiseSource.pixels[:5]).permute(0, 3, 1, 2)).numpy()


@pytest.fixture(scope="module")
def build(model: nn.Module, context: Context, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Artifact]:
    folder, built = tmp_path_factory.mktemp("artifacts"), {}

    def case(number: int) -> Artifact:
        if number not in built:
            runtime, technique, parameters, _ = CASES[number]
            step = None if technique is None else Step.make(technique, **parameters)
            built[number] = make_artifact(model, SHAPE, MEAN, STD, runtime, step, context, folder / str(number))
        return built[number]

    return case


@pytest.mark.usefixtures("shared_graphs")
@pytest.mark.parametrize("number", range(len(CASES)), ids=IDS)
def test_every_way_to_deploy(
    number: int, build: Callable[[int], Artifact], model: nn.Module, images: np.ndarray
) -> None:
    runtime, technique, _, tolerance = CASES[number]
    artifact = build(number)
    assert {path.name for path in artifact.folder.iterdir()} == {DESCRIPTION, *FILES[runtime]}
    assert Artifact.open(artifact.folder) == artifact
    assert (artifact.input_shape, artifact.mean, artifact.std, artifact.runtime) == (SHAPE, MEAN, STD, runtime)
    with open_session(artifact, 1) as session, open_session(artifact, 1, batch=1) as single:
        found = check_parity(session, model, images, quantized=technique is not None)
        one_by_one = np.concatenate([single.run(image[None]) for image in images])
        together = session.run(images)
    assert found.relative < tolerance
    # Dynamic quantization scales by the batch it sees, fp16 and (on CPUs that have it) bf16 round: alike, not equal.
    rounds = technique == "int8_dynamic" or (computes_bf16() and "bf16" in artifact.options.values())
    difference = np.linalg.norm(one_by_one - together) / np.linalg.norm(together)
    assert difference < (tolerance if rounds else 1e-3)


@pytest.mark.usefixtures("shared_graphs")
def test_quantized_files_are_smaller(build: Callable[[int], Artifact]) -> None:
    sizes = {name: build(number).size_bytes for number, name in enumerate(IDS)}
    for name, size in sizes.items():
        runtime, technique = name.split("-")[:2]
        if technique not in ("fp32",) and name != "openvino-bf16-fp32":
            assert size < sizes[f"{runtime}-fp32"], name
    assert sizes["onnxruntime-weight_only-4-16"] < sizes["onnxruntime-weight_only-8"]


@pytest.mark.usefixtures("shared_graphs")
def test_a_skeleton_needs_no_data(model: nn.Module, tmp_path: Path, images: np.ndarray) -> None:
    for technique in techniques():
        if isinstance(technique, DeployTechnique):
            for runtime in sorted(technique.runtimes):
                folder = tmp_path / technique.name / runtime
                artifact = make_artifact(
                    model, SHAPE, MEAN, STD, runtime, Step.make(technique.name), Context(scale), folder
                )
                with open_session(artifact, 1, batch=1) as session:
                    assert np.isfinite(session.run(images[:1])).all()


def test_deploying_is_quiet_and_leaves_logging_alone(
    model: nn.Module, context: Context, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    handlers, level = list(logging.root.handlers), logging.root.manager.disable
    capfd.readouterr()
    for runtime, technique in (
        ("onnxruntime", "weight_only"),
        ("onnxruntime", "int8_dynamic"),
        ("openvino", "ptq_int8"),
        ("litert", "litert_dynamic"),
    ):
        make_artifact(model, SHAPE, MEAN, STD, runtime, Step.make(technique), context, tmp_path / technique)
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""
    assert list(logging.root.handlers) == handlers and logging.root.manager.disable == level


def test_the_patch_embedding_stays_float(build: Callable[[int], Artifact]) -> None:
    operators = {node.op_type for node in onnx.load(build(IDS.index("onnxruntime-int8_dynamic")).path).graph.node}
    assert "Conv" in operators and "MatMulInteger" in operators and "ConvInteger" not in operators


def test_openvino_precision_belongs_to_the_artifact(build: Callable[[int], Artifact]) -> None:
    hints = {name: build(number).options.get("INFERENCE_PRECISION_HINT") for number, name in enumerate(IDS)}
    assert hints["openvino-bf16"] == "bf16" and hints["openvino-ptq_int8"] == "f32"
    assert hints["openvino-ptq_int8-mixed-False-bf16"] == "bf16" and hints["openvino-fp32"] is None


def test_the_export_has_a_free_batch_and_known_names(model: nn.Module, tmp_path: Path) -> None:
    path = export_onnx(model, SHAPE, tmp_path)
    graph = onnx.load(path).graph
    assert [value.name for value in (*graph.input, *graph.output)] == ["input", "logits"]
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert graph_input_shape(path) == SHAPE
    stored = sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)
    assert stored == sum(parameter.numel() for parameter in model.parameters())


class Untraceable(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("line one\nline two")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "litert", "torch"])
def test_a_failed_export_leaves_nothing(runtime: str, context: Context, tmp_path: Path) -> None:
    with pytest.raises(TrialError, match="line one") as caught:
        make_artifact(Untraceable(), SHAPE, MEAN, STD, runtime, None, context, tmp_path / "artifact")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("runtime", "technique"),
    [("onnxruntime", "int8_dynamic"), ("onnxruntime", "weight_only"), ("openvino", "ptq_int8"), ("openvino", "bf16")],
)
def test_a_broken_graph_is_a_failed_trial(
    runtime: str, technique: str, model: nn.Module, context: Context, tmp_path: Path
) -> None:
    graph = export_onnx(model, SHAPE, tmp_path)
    broken = onnx.load(graph)
    broken.graph.node[len(broken.graph.node) // 2].op_type = "NoSuchOperator"
    onnx.save(broken, graph)
    step = Step.make(technique)
    handler: Any = step.handler
    out = tmp_path / "out"
    out.mkdir()
    try:
        artifact = handler.deploy(graph, runtime, step.config, context, out)
        open_session(artifact, 1)
    except TrialError as error:
        assert "\n" not in str(error)
    else:
        pytest.fail("a broken graph went unnoticed")


def test_an_older_artifact_is_replaced_whole(model: nn.Module, context: Context, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "stray").write_text("old")
    make_artifact(model, SHAPE, MEAN, STD, "onnxruntime", None, context, folder)
    assert {path.name for path in folder.iterdir()} == {DESCRIPTION, "model.onnx"}
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


@pytest.mark.parametrize(
    ("technique", "package", "runtime"),
    [
        ("ptq_int8", "nncf", "openvino"),
        ("ptq_int8", "openvino", "openvino"),
        ("weight_only", "nncf", "openvino"),
        ("bf16", "openvino", "openvino"),
        ("litert_dynamic", "litert_torch", "litert"),
    ],
)
def test_missing_packages_are_named(
    technique: str,
    package: str,
    runtime: str,
    model: nn.Module,
    context: Context,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=package):
        make_artifact(model, SHAPE, MEAN, STD, runtime, Step.make(technique), context, tmp_path / "artifact")


@pytest.mark.parametrize(
    ("runtime", "parameters", "words"),
    [("openvino", {"bits": 8, "group_size": 32}, "one scale a channel"), ("onnxruntime", {"hint": "f32"}, "OpenVINO")],
)
def test_parameters_that_do_nothing_are_refused(
    runtime: str, parameters: dict[str, Any], words: str, model: nn.Module, context: Context, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        make_artifact(model, SHAPE, MEAN, STD, runtime, Step.make("weight_only", **parameters), context, tmp_path / "a")


@pytest.mark.parametrize("number", [number for number, case in enumerate(CASES) if case[1]])
def test_deploy_recipes_survive_a_round_trip(number: int) -> None:
    runtime, technique, parameters, _ = CASES[number]
    assert technique is not None
    recipe = Recipe((Step.make(technique, **parameters),), runtime)
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    handler: Any = recipe.steps[0].handler
    assert 0 < handler.bytes_per_weight(recipe.steps[0].config) <= 4
