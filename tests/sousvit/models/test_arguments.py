"""Models that are too large are refused by arithmetic, before anything is allocated."""

from __future__ import annotations

import time

import pytest

from sousvit.errors import UserError
from sousvit.models.arguments import refuse_giants, require_memory
from sousvit.specs import DetectorSpec, ModelSpec


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"img_size": 60_000}, "img_size is at most"),
        ({"img_size": [60_000, 60_000]}, "img_size is at most"),
        ({"img_size": 8192, "patch_size": 1}, "patches"),
        ({"img_size": 8192}, "patches"),
        ({"depth": 10**9}, "depth is at most"),
        ({"embed_dim": 10**9}, "embed_dim is at most"),
        ({"embed_dim": 65_536, "depth": 1000}, "billion parameters"),
        ({"num_classes": 10**12}, "num_classes is at most"),
        ({"num_classes": 10**6, "embed_dim": 65_536}, "billion parameters"),
        ({"drop_rate": float("nan")}, "drop_rate is at most"),
        ({"layer_norm_eps": {"norm": float("inf")}}, "layer_norm_eps is at most"),
    ],
)
def test_giants_are_refused(args, words):
    begun = time.process_time()
    with pytest.raises(UserError, match=words):
        ModelSpec(name="vit_tiny_patch16_224", args=args)
    assert time.process_time() - begun < 1


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 4, "num_classes": 3},
        {"img_size": [518, 392], "patch_size": 14, "embed_dim": 1536, "depth": 40, "mlp_ratio": 4.0},
        {"img_size": 1024, "num_classes": 21_843, "class_token": False, "global_pool": "avg", "depths": [2, 2, 18, 2]},
    ],
)
def test_models_that_people_have_are_not(args):
    refuse_giants(args)
    require_memory(args)


def test_what_does_not_fit_into_this_machine_is_refused_before_it_is_made(monkeypatch):
    class Memory:
        total = 10**9

    monkeypatch.setattr("psutil.virtual_memory", lambda: Memory)
    with pytest.raises(UserError, match="fit into the 1 GB of this machine"):
        require_memory({"embed_dim": 8192, "depth": 24, "mlp_ratio": 4})


def test_a_factory_takes_what_it_takes():
    assert ModelSpec(factory="package.module:function", args={"seed": 2**40}).args == {"seed": 2**40}


@pytest.mark.parametrize("values", [{"channels": 32 * 10**9}, {"strides": [8] * 10_000}, {"convs": 10**9}])
def test_heads_of_detectors_are_bounded(values):
    with pytest.raises(UserError):
        DetectorSpec(**values)


@pytest.mark.parametrize(
    "args",
    [
        {"checkpoint_path": "weights.pth"},
        {"pretrained": True},
        {"cache_dir": "/tmp"},
        {"pretrained_cfg": {"file": "weights.pth"}},
        {"pretrained_cfg": {"url": "http://example.com/weights.pth"}},
        {"pretrained_cfg": "a_tag"},
        {"pretrained_cfg_overlay": {"hf_hub_id": "owner/model"}},
        {"pretrained_cfg_overlay": {"custom_load": True, "input_size": [3, 32, 32]}},
    ],
)
def test_arguments_name_no_weights(args):
    with pytest.raises(UserError, match="weights come from checkpoint"):
        ModelSpec(name="vit_tiny_patch16_224", args=args)


def test_arguments_may_say_what_the_model_takes():
    overlay = {"input_size": [3, 32, 32], "mean": [0.5, 0.5, 0.5]}
    assert ModelSpec(name="swin_tiny_patch4_window7_224", args={"pretrained_cfg_overlay": overlay}).args
