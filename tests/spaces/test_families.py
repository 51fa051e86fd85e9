"""Architectures of every kind: they export, they quantize, and their artifacts compute what PyTorch computes.

A few of the families that benchmarks/families/run.py tries; docs/families.md has its table.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sousvit.errors import TrialError
from sousvit.spaces.calibration.quantize import QuantPlan, quantize_model
from sousvit.spaces.context import Context
from sousvit.spaces.export.onnx import export_onnx
from sousvit.spaces.export.plain import PLAIN, PlainFunctions
from sousvit.spaces.layers.quantized import QuantLinear, image_readers
from sousvit.spaces.module_shape import shape_of

ROOT = Path(__file__).parents[2]


def load_benchmark():
    spec = importlib.util.spec_from_file_location("families_run", ROOT / "benchmarks" / "families" / "run.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["families_run"] = module  # its dataclasses look there
    spec.loader.exec_module(module)
    return module


bench = load_benchmark()
#: What each of them needs: optional arguments and rotary positions; RMSNorm; biases apart from their projection; an
#: MLP behind positions; attention pooling; antialiased positions; pooling to a size that does not divide; parallel
#: branches.
KINDS = (
    "DINOv3", "EVA-02", "AIMv2", "BEiT", "Swin v2", "SigLIP so400m", "NaFlexViT", "PVT v2, linear", "LeViT",
)  # fmt: skip


@pytest.mark.parametrize("family", KINDS)
def test_it_exports_and_computes_the_same(family, tmp_path):
    outcome = bench.attempt(family, "onnxruntime", tmp_path)
    assert outcome.works and float(outcome.error) < 1e-4, outcome


@pytest.mark.parametrize("way", ["onnxruntime static_int8", "onnxruntime qat", "onnxruntime int8_dynamic"])
@pytest.mark.parametrize("family", ["EVA-02", "AIMv2", "BEiT", "Swin v2", "NaFlexViT"])
def test_it_is_quantized(family, way, tmp_path):
    outcome = bench.attempt(family, way, tmp_path)
    assert outcome.works, outcome
    assert way == "onnxruntime int8_dynamic" or float(outcome.error) < 0.1, "simulated layers compute the same"


@pytest.mark.parametrize("way", ["openvino", "openvino ptq_int8"])
@pytest.mark.parametrize("family", ["EVA-02", "AIMv2", "BEiT"])
def test_openvino_takes_it(family, way, tmp_path):
    outcome = bench.attempt(family, way, tmp_path)
    assert outcome.works, outcome


def test_the_table_of_the_documents_is_the_one_that_was_measured():
    found = bench.read(ROOT / "benchmarks" / "families" / "raw.csv")
    assert {family for family, _ in found} == set(bench.FAMILIES)
    assert bench.table(found) in bench.DOCUMENT.read_text()
    broken = [one for one in found.values() if one.way == "onnxruntime" and not one.works]
    assert not broken, "every family exports"


@pytest.mark.parametrize(
    ("function", "size", "arguments"),
    [
        (F.rms_norm, (2, 5, 8), {"normalized_shape": [8], "weight": torch.rand(8), "eps": 1e-6}),
        (F.rms_norm, (2, 5, 8), {"normalized_shape": [5, 8]}),
        (F.fold, (2, 36, 16), {"output_size": (8, 8), "kernel_size": 3, "padding": 1, "stride": 2}),
        (F.fold, (2, 12, 20), {"output_size": (6, 6), "kernel_size": (3, 2)}),
        (F.adaptive_avg_pool2d, (2, 3, 16, 9), {"output_size": 7}),
        (F.adaptive_avg_pool2d, (2, 3, 16, 9), {"output_size": (None, 4)}),
        (F.interpolate, (2, 3, 16, 16), {"size": (2, 5), "mode": "bicubic", "antialias": True, "align_corners": False}),
        (F.interpolate, (2, 3, 7, 7), {"size": 12, "mode": "bilinear", "antialias": True, "align_corners": True}),
    ],
)
def test_plain_forms_compute_the_same(function, size, arguments):
    x = torch.randn(size, generator=torch.Generator().manual_seed(0))
    plain = PLAIN[function](x, **arguments)
    assert plain is not NotImplemented
    assert torch.allclose(plain, function(x, **arguments), atol=2e-6)
    with PlainFunctions():
        assert torch.equal(function(x, **arguments), plain)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [(F.adaptive_avg_pool2d, {"output_size": 4}), (F.interpolate, {"size": 16, "mode": "bilinear"})],
)
def test_what_exporters_know_is_left_to_them(function, arguments):
    assert PLAIN[function](torch.zeros(1, 3, 8, 8), **arguments) is NotImplemented


class Odd(nn.Module):
    """Uses the weights of one layer in a function, and feeds another a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.used, self.table, self.head = (nn.Linear(12, 12) for _ in range(4))
        self.register_buffer("places", torch.randn(1, 12))

    def forward(self, images: torch.Tensor, scale: float = 1.0, flag: bool = False) -> torch.Tensor:
        """``[B, 3, 2, 2]`` to ``[B, 12]``."""
        if not isinstance(flag, bool):
            raise TypeError("flag must be bool")
        x = self.read(images.flatten(1)) * scale
        return self.head(F.linear(x, self.used.weight) + self.table(self.places))


def test_layers_that_read_nothing_of_the_image_stay_float_with_and_without_data(make_context):
    model = Odd().eval()
    context = make_context(model, 8, (2, 2))
    bare = Context(context.normalise, input_shape=(3, 2, 2))
    for known in (context, bare):
        assert image_readers(model, known.image_shape) == [model.read]
    calibrated, skeleton = (quantize_model(Odd().eval(), QuantPlan(), one) for one in (context, bare))
    assert calibrated.state_dict().keys() == skeleton.state_dict().keys()
    assert isinstance(calibrated.read, QuantLinear) and type(calibrated.used) is type(calibrated.table) is nn.Linear


def test_a_model_without_layers_to_quantize_is_one_clear_line(make_context):
    model = Odd().eval()
    model.read = nn.Identity()
    with pytest.raises(TrialError, match="no linear layer besides the classifier is called"):
        quantize_model(model, QuantPlan(), make_context(model, 8, (2, 2)))


def test_a_merged_model_is_quantized_and_exported_though_it_cannot_be_merged_twice(tmp_path):
    outcome = bench.attempt("FastViT", "onnxruntime static_int8", tmp_path)
    assert outcome.works, outcome


def test_a_technique_is_left_out_where_its_layers_read_nothing_of_the_image(tmp_path):
    outcome = bench.attempt("CoAtNet, MLP positions", "onnxruntime static_int8", tmp_path)
    assert outcome.left_out and outcome.line == "no linear layers besides the classifier"


def test_separate_biases_do_not_keep_a_projection_from_being_quantized():
    model = bench.FAMILIES["BEiT"].model()
    context = bench.context_for(bench.FAMILIES["BEiT"].size)
    quantized = quantize_model(model, QuantPlan(), context)
    assert all(isinstance(block.attn.qkv, QuantLinear) for block in quantized.blocks)


def test_optional_arguments_of_a_model_keep_their_defaults_and_the_model_its_forward(tmp_path):
    model = Odd().eval()
    export_onnx(model, (1, 3, 2, 2), tmp_path)
    assert "forward" not in vars(model)


def test_a_failed_export_prints_no_graph(tmp_path, capfd):
    class Unknown(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.linalg.matrix_exp(images).flatten(1)

    with pytest.raises(TrialError, match="matrix_exp"):
        export_onnx(Unknown().eval(), (1, 3, 4, 4), tmp_path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("family", ["SigLIP so400m", "CaiT"])
def test_models_that_give_parameters_to_their_modules_are_counted(family):
    model = bench.FAMILIES[family].model()
    size = (bench.FAMILIES[family].size,) * 2
    shape = shape_of(model, family, size, 3, bench.CLASSES)
    assert shape.macs() > 0 and math.isfinite(shape.macs())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_context_knows_the_size_of_images_by_its_calibration_or_by_the_model(make_context):
    context = make_context(Odd(), 8, (2, 4))
    assert context.image_shape == (3, 2, 4)
    assert replace(context, calibration=None).image_shape is None
    assert Context(context.normalise, input_shape=(1, 8, 8)).image_shape == (1, 8, 8)
