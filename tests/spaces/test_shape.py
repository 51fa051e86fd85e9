from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
import timm
import torch
from torch import nn

from sousvit.errors import UserError
from sousvit.spaces.module_shape import macs_of, vit_shape
from sousvit.spaces.shape import OtherShape, read_shape

#: Plain models as timm defines them; built without memory for weights.
NAMES: list[tuple[str, dict[str, Any]]] = [
    ("vit_tiny_patch16_224", {}),
    ("vit_tiny_patch16_224", {"num_classes": 0}),
    ("vit_tiny_patch16_224", {"pos_embed": "none", "proj_bias": False, "in_chans": 1}),
    ("vit_small_patch16_224", {"dynamic_img_size": True, "global_pool": ""}),
    ("deit_tiny_patch16_224", {"img_size": (128, 96)}),
    ("deit_tiny_distilled_patch16_224", {"num_classes": 10}),
    ("deit3_small_patch16_224", {}),
    ("vit_base_patch16_clip_224", {}),
    ("vit_base_patch16_reg4_gap_256", {}),
    ("vit_base_patch14_dinov2", {}),
    ("vit_base_patch16_siglip_gap_224", {}),
]


@pytest.mark.parametrize(("name", "arguments"), NAMES)
def test_parameters_are_exact(name: str, arguments: dict[str, Any]) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, **arguments)
    shape = vit_shape(model)
    matrices = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    assert shape.params() == sum(parameter.numel() for parameter in model.parameters())
    assert shape.matrix_weights() == sum(module.weight.numel() for module in matrices)
    assert shape.num_tokens == model.patch_embed.num_patches + model.num_prefix_tokens


def test_macs_are_those_that_run(make_vit: Callable[..., nn.Module], variant: str) -> None:
    model = make_vit(variant)
    shape = vit_shape(model)
    assert shape.macs() == macs_of(model, (shape.channels, *shape.image)) > 0


def test_macs_of_published_models() -> None:
    with torch.device("meta"):
        shape = vit_shape(timm.create_model("vit_base_patch16_224"))
    assert shape.params() == 86_567_656
    assert shape.macs() == pytest.approx(17.58e9, rel=0.005)


def test_macs_of_any_module_counts_convolutions_linears_and_keeps_the_mode() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 6 * 6, 10)).train()
    assert macs_of(model, (3, 8, 8)) == 6 * 6 * 8 * 3 * 9 + 8 * 6 * 6 * 10
    assert model.training


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("resnet18", {}, "another architecture"),
        ("vit_base_r50_s16_224", {}, "HybridEmbed"),
        ("vit_base_patch16_siglip_224", {}, "attention pooling"),
        ("vit_small_patch16_18x2_224", {}, "ParallelThingsBlock"),
        ("vit_giant_patch14_dinov2", {"depth": 1}, "GluMlp"),
        ("vit_tiny_patch16_224", {"scale_attn_norm": True}, "scale_norm"),
        ("vit_tiny_patch16_224", {"img_size": 230}, "do not tile"),
    ],
)
def test_other_models_are_refused_with_one_reason(name: str, arguments: dict[str, Any], reason: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, **arguments)
    with pytest.raises(UserError, match=reason) as error:
        vit_shape(model)
    assert "\n" not in str(error.value)


def test_patches_must_tile_the_image(make_vit: Callable[..., nn.Module]) -> None:
    with pytest.raises(UserError, match="tile the image"):
        vit_shape(make_vit()).with_patch((5, 5))


def test_fewer_tokens_cost_less_and_are_reduced_once(make_vit: Callable[..., nn.Module]) -> None:
    shape = vit_shape(make_vit())
    reduced = shape.with_tokens([17, 9, 9, 5], [0, 100, 0, 0])
    assert [block.tokens_in for block in reduced.blocks] == [17, 17, 9, 9]
    assert reduced.params() == shape.params()
    saved_mlp = (17 - 9 + 17 - 9 + 17 - 5) * 2 * 32 * 128
    saved_attention = 2 * ((17 - 9) * 4 * 32 * 32 + 2 * (17**2 - 9**2) * 32)
    assert reduced.macs() == shape.macs() - saved_mlp - saved_attention + 100
    with pytest.raises(UserError, match="one step"):
        reduced.with_tokens([17] * 4, [0] * 4)
    with pytest.raises(UserError, match="one step"):
        reduced.with_patch((8, 8))


def test_shapes_are_values(make_vit: Callable[..., nn.Module]) -> None:
    shape = vit_shape(make_vit())
    assert vit_shape(make_vit(seed=3)) == shape
    assert hash(shape) != hash(replace(shape, channels=1))


@pytest.mark.parametrize("kind", ["plain", "other"])
def test_shapes_survive_json(kind: str, make_vit: Callable[..., nn.Module]) -> None:
    shape = vit_shape(make_vit()) if kind == "plain" else OtherShape("swin", (32, 32), 3, 5, 7, 8, 9, 2)
    assert read_shape(json.loads(json.dumps(asdict(shape)))) == shape


def test_importing_the_module_needs_no_torch() -> None:
    code = "import sys, sousvit.spaces.shape; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
