"""Quantized layers: their arithmetic against independent references, their ranges, and models made of them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from torch import nn

from sousvit.errors import UserError
from sousvit.spaces.calibration.quantize import QuantPlan, quantize_model, sensitive_blocks
from sousvit.spaces.calibration.ranges import InputSample, activation_range, sample_inputs, weight_scales
from sousvit.spaces.calibration.smoothing import norm_readers, smooth_pair
from sousvit.spaces.export.onnx import export_onnx
from sousvit.spaces.layers.quantized import QuantLinear, activation_grid, linear_layers, lsq
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.shape import OtherShape
from sousvit.spaces.space import make_space


@pytest.mark.parametrize("zero", [0, 100])
def test_the_step_size_gradient_is_that_of_lsq(zero):
    low, high, gain = 0 if zero else -127, 255 if zero else 127, 0.01
    x = torch.linspace(-40.0, 40.0, 801)
    scale = torch.tensor(0.2, requires_grad=True)
    upstream = torch.randn(801, generator=torch.Generator().manual_seed(0))
    (lsq(x, scale, zero, low, high, gain) * upstream).sum().backward()
    levels = x / 0.2 + zero
    inside = (levels > low) & (levels < high)
    expected = torch.where(inside, levels.round() - levels, levels.clamp(low, high) - zero)
    assert float(scale.grad) == pytest.approx(gain * float((expected * upstream).sum()), rel=1e-4)


def test_values_pass_the_gradient_straight_through_inside_the_range():
    x = torch.tensor([-50.0, 0.33, 50.0], requires_grad=True)
    lsq(x, torch.tensor(0.1), 0, -127, 127, 1.0).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(("low", "high"), [(-3.0, 5.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 0.0)])
def test_zero_is_exact_on_the_activation_grid(low, high):
    step, zero = activation_grid(low, high)
    assert 0 <= zero <= 255 and step > 0
    assert float(torch.fake_quantize_per_tensor_affine(torch.zeros(1), step, zero, 0, 255)) == 0.0
    assert (255 - zero) * step >= max(high, 0) - step and zero * step >= -min(low, 0) - step


def test_training_and_evaluation_quantize_alike():
    layer = QuantLinear(nn.Linear(16, 8), low=-2, high=3)
    x = torch.randn(4, 5, 16)
    assert torch.allclose(layer.train()(x), layer.eval()(x), atol=1e-5)


def test_int7_is_what_training_saw_whatever_the_steps_become():
    layer = QuantLinear(nn.Linear(16, 8), levels=63, low=-2, high=3).train()
    with torch.no_grad():
        layer.weight_scale.mul_(0.5)  # as learned steps may: the largest weights lie beyond 63 of them
    x = torch.randn(4, 5, 16)
    seen = layer(x)
    assert torch.allclose(layer.eval()(x), seen, atol=1e-5)
    assert float((layer.weight.abs() / layer.weight_scale[:, None]).max()) <= 63 + 1e-3
    shrunk = QuantLinear(nn.Linear(16, 8), 63, -2, 3, torch.full((8,), 1e-3))
    assert float(shrunk.weight.abs().max()) <= 0.063 + 1e-6


def test_a_quantized_layer_leaves_the_float_layers_weights_alone():
    linear = nn.Linear(16, 8)
    before = linear.weight.detach().clone()
    QuantLinear(linear, 63, -2, 3, torch.full((8,), 1e-3)).train().eval()
    assert torch.equal(linear.weight, before)


def test_step_sizes_learn_under_bf16_autocast_too():
    layer = QuantLinear(nn.Linear(16, 8), low=-0.1, high=3.9).train()
    x = (torch.rand(4, 5, 16) * 1.5 + 2.2).bfloat16()  # levels above 128, where bf16 has no fractions
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(x)
    output.float().sum().backward()
    assert layer.act_scale.grad.abs() > 0
    (expected,) = torch.autograd.grad(layer(x.float()).sum(), layer.act_scale)
    assert float(layer.act_scale.grad) == pytest.approx(float(expected), rel=0.1)


@pytest.mark.slow
def test_layers_whose_norm_is_folded_at_deployment_are_quantized_too(make_context, tmp_path: Path):
    small = {"embed_dim": (32, 48, 64), "depth": (1, 1, 1), "num_heads": (2, 3, 4), "img_size": 64}
    model = timm.create_model("levit_128s", num_classes=5, **small).eval()
    plain = export_onnx(model, (1, 3, 64, 64), tmp_path).stat().st_size
    quantized = quantize_model(model, QuantPlan(), make_context(model, 8, (64, 64)))
    assert sum(isinstance(layer, QuantLinear) for layer in quantized.modules()) >= 12
    assert export_onnx(quantized, (1, 3, 64, 64), tmp_path).stat().st_size < 0.7 * plain


@pytest.mark.parametrize("technique", ["static_int8", "qat"])
def test_models_without_linear_layers_are_left_to_others(technique):
    shape = OtherShape("repvit", (64, 64), 3, 5, 9, 9, 9, 0)
    with pytest.raises(UserError, match="no linear layers besides the classifier"):
        Recipe((Step.make(technique),)).reshape(shape)
    assert technique in make_space({"techniques": {technique: {}}}, shape, ("onnxruntime",))[1]


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"epochs": -1}, {"learning_rate": -1.0}])
def test_qat_trains(bad):
    with pytest.raises(UserError):
        Step.make("qat", **bad)


def test_a_quantized_layer_is_close_to_the_float_one():
    linear = nn.Linear(64, 32)
    x = torch.randn(8, 64).clamp(-3, 3)
    error = QuantLinear(linear, low=-3, high=3).eval()(x) - linear(x)
    assert float(error.detach().square().mean().sqrt()) < 0.02


def test_least_squares_ranges_beat_the_extremes_where_there_are_outliers():
    rows = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
    rows[0, 0] = 60.0
    sample = InputSample(rows, rows.amin(0), rows.amax(0))

    def error(clip):
        step, zero = activation_grid(*activation_range(sample, clip))
        return float((torch.fake_quantize_per_tensor_affine(rows, step, zero, 0, 255) - rows).square().mean())

    assert error("mse") <= error("minmax")
    assert activation_range(sample, "minmax")[1] == 60.0 and activation_range(sample, "percentile")[1] < 10
    weight = torch.randn(4, 64)
    weight[:, 0] = 8.0
    full, best = weight_scales(weight, 7, "minmax"), weight_scales(weight, 7, "mse")

    def loss(scale):
        return ((weight / scale[:, None]).round().clamp(-7, 7) * scale[:, None] - weight).square().sum(1)

    assert (loss(best) <= loss(full)).all() and (best < full).any()


@pytest.mark.parametrize("how", ["smooth", "reparam"])
def test_smoothing_keeps_the_float_model_and_evens_out_channels(variant, how, make_vit, make_context):
    model = make_vit(variant)
    context = make_context(model)
    with torch.no_grad():
        for norm, _ in norm_readers(model):
            norm.weight[0] *= 20.0  # an outlier channel
    size, channels = model.patch_embed.img_size, model.patch_embed.proj.in_channels
    images = torch.randn(4, channels, *size)
    before = model(images)
    pairs = list(norm_readers(model))
    assert len(pairs) == 2 * len(model.blocks)
    samples = sample_inputs(model, [reader for _, reader in pairs], context)
    for (norm, reader), sample in zip(pairs, samples, strict=True):
        smoothed = smooth_pair(norm, reader, sample, how, 0.5)
        width = sample.high - sample.low
        even = smoothed.high - smoothed.low
        assert float(even.max() / even.mean()) < float(width.max() / width.mean())
    assert torch.allclose(model(images), before, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("plan", [QuantPlan(), QuantPlan(weights="int7", clip="percentile", smoothing="reparam")])
def test_every_linear_layer_but_the_classifier_is_quantized(variant, plan, make_vit, make_context):
    model = make_vit(variant)
    images = torch.randn(4, model.patch_embed.proj.in_channels, *model.patch_embed.img_size)
    before, names = model(images), len(list(linear_layers(model)))
    quantized = quantize_model(model, plan, make_context(model))
    assert sum(isinstance(module, QuantLinear) for module in quantized.modules()) == names == 4 * len(model.blocks)
    assert not any(isinstance(module, QuantLinear) for module in model.head.modules())
    assert float((quantized(images) - before).norm() / before.norm()) < 0.2


def test_the_most_sensitive_blocks_stay_float(make_vit, make_context):
    model = make_vit()
    context = make_context(model)
    with torch.no_grad():  # block 2 gets a row of weights that 8 bits cannot hold beside the others
        model.blocks[2].mlp.fc1.weight[:, 0] *= 300
        model.blocks[2].norm2.weight[0] /= 300
    layers = [layer for _, _, layer in linear_layers(model)]
    order = sensitive_blocks(model, {id(layer): QuantLinear(layer) for layer in layers}, context)
    assert order[0] == 2 and sorted(order) == [0, 1, 2, 3]
    quantized = quantize_model(model, QuantPlan(float_blocks=1), context)
    assert type(quantized.blocks[2].mlp.fc1) is nn.Linear
    assert isinstance(quantized.blocks[1].mlp.fc1, QuantLinear)


def test_the_exported_file_holds_integers_and_computes_in_them(make_vit, make_context, tmp_path: Path):
    model = make_vit(embed_dim=64)
    # int7: this machine may add int8 products in 16 bits
    quantized = quantize_model(model, QuantPlan(weights="int7"), make_context(model))
    path = export_onnx(quantized, (1, 3, 16, 16), tmp_path)
    graph = onnx.load(path).graph
    large = [entry for entry in graph.initializer if math.prod(entry.dims) >= 64 * 64]
    assert large and {entry.data_type for entry in large} == {onnx.TensorProto.INT8}
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options)
    images = torch.randn(2, 3, 16, 16)
    got = session.run(None, {"input": images.numpy()})[0]
    assert np.allclose(got, quantized(images).detach().numpy(), atol=0.05)
    fused = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert fused.count("MatMulIntegerToFloat") == 4 * len(model.blocks)
