"""Modules from memory: made again by timm where it can, by a user's function, or kept in their process."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from sousvit.errors import UserError
from sousvit.models.load import load
from sousvit.models.module import adopt
from sousvit.specs import MEMORY, ModelSpec

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 5}
#: timm's name, arguments, and the arguments that must be known to make it again.
KNOWN = [
    ("vit_tiny_patch16_224", {**SMALL, "class_token": False, "global_pool": "avg"}, {"fc_norm": True}),
    ("vit_tiny_patch16_224", {**SMALL, "reg_tokens": 2, "init_values": 0.1, "qk_norm": True}, {"reg_tokens": 2}),
    ("vit_tiny_patch16_224", {**SMALL, "qkv_bias": False, "mlp_ratio": 2, "in_chans": 1}, {"mlp_ratio": 2.0}),
    ("vit_tiny_patch16_224", {**SMALL, "pre_norm": True, "no_embed_class": True}, {"pre_norm": True}),
    ("vit_small_patch14_dinov2", {"img_size": 28, "depth": 1, "num_classes": 3}, {"depth": 1}),
    ("deit_tiny_distilled_patch16_224", {"depth": 1, "num_classes": 3}, {"depth": 1}),
    ("convnext_atto", {"num_classes": 3, "in_chans": 1}, {"in_chans": 1}),
]


@pytest.mark.parametrize(("name", "args", "telling"), KNOWN, ids=[f"{name}-{i}" for i, (name, *_) in enumerate(KNOWN)])
def test_a_module_of_timm_travels_as_name_arguments_and_weights(tmp_path, name, args, telling):
    module = timm.create_model(name, **args)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.05)
    module.pretrained_cfg = {**module.pretrained_cfg, "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    spec, base = adopt(module, tmp_path)
    assert base is None and spec.name == name and telling.items() <= spec.args.items()
    made = load(ModelSpec(checkpoint=spec.checkpoint).resolved(Path()))
    images = torch.randn(2, made.channels, *made.size)
    with torch.no_grad():
        assert torch.allclose(made.module(images), module.eval()(images), atol=1e-4)
    if made.channels == 3:
        assert made.mean == pytest.approx((0.1, 0.2, 0.3)) and made.std == pytest.approx((0.4, 0.5, 0.6))
    before = list(tmp_path.iterdir())
    assert adopt(module, tmp_path)[0] == spec and list(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "changed",
    [
        lambda module: setattr(module.blocks[0].mlp, "act", nn.Tanh()),
        lambda module: module.blocks[1].mlp.fc1.register_buffer("mine", torch.ones(1)),
        lambda module: module.blocks[0].register_forward_hook(lambda block, given, output: output * 2),
    ],
)
def test_a_module_of_timm_that_was_changed_stays_in_its_process(tmp_path, changed):
    module = timm.create_model("vit_tiny_patch16_224", **SMALL)
    changed(module)
    module.pretrained_cfg = {**module.pretrained_cfg, "input_size": (3, 32, 32)}
    spec, base = adopt(module, tmp_path)
    assert spec.factory == MEMORY and base is not None and base.num_classes == 5 and not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="known to its own process only"):
        load(spec)


def test_the_given_module_and_the_caller_s_random_numbers_stay_as_they_are(tmp_path):
    module = timm.create_model("vit_tiny_patch16_224", **SMALL).half().train()
    weights, numbers = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    adopt(module, tmp_path)
    assert module.training and next(module.parameters()).dtype == torch.float16
    assert all(torch.equal(weights[name], value) for name, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), numbers)


FACTORY = """
import torch

def small(width=8):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, width, 8, 8), torch.nn.Flatten(), torch.nn.Linear(16 * width, 4))
    module.pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.5,), "std": (0.25,)}
    return module

def bare():
    return torch.nn.Flatten()

def features():
    module = torch.nn.Conv2d(3, 2, 8, 8)
    module.pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.5,), "std": (0.25,)}
    return module
"""


@pytest.fixture
def factories(tmp_path, monkeypatch):
    (tmp_path / "factories_of_mine.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    import factories_of_mine

    return factories_of_mine


def test_a_factory_makes_a_module_wherever_trials_run(factories, tmp_path):
    module = factories.small()
    nn.init.normal_(module[0].weight)
    spec, base = adopt(module, tmp_path / "inputs", "factories_of_mine:small")
    assert base is None and spec.factory == "factories_of_mine:small"
    made = load(spec.resolved(Path()))
    assert torch.equal(made.module[0].weight, module[0].weight)
    assert (made.num_classes, made.size, made.mean, made.std) == (4, (32, 32), (0.5,) * 3, (0.25,) * 3)
    wide = load(ModelSpec(factory="factories_of_mine:small", args={"width": 4}).resolved(Path()))
    assert wide.module[0].out_channels == 4 and wide.spec.name == "factories_of_mine:small"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"factory": "factories_of_mine:large"}, "has no attribute 'large'"),
        ({"factory": "nowhere:small"}, "No module named 'nowhere'"),
        ({"factory": "small"}, "a model's factory is package.module:function"),
        ({"factory": "factories_of_mine:small", "args": {"depth": 3}}, "unexpected keyword argument 'depth'"),
        ({"factory": "factories_of_mine:bare"}, "says how images reach it; received factories_of_mine:bare without"),
        ({"factory": "factories_of_mine:features"}, "a classifier returns logits [images, classes]"),
        ({"factory": "os:getcwd"}, "a factory returns an nn.Module; received str"),
    ],
)
def test_what_is_wrong_with_a_factory_is_one_clear_line(factories, spec, words):
    with pytest.raises(UserError) as raised:
        load(ModelSpec(**spec).resolved(Path()))
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_a_factory_of_another_module_is_refused(factories, tmp_path):
    with pytest.raises(UserError, match=r"0\.weight is \[8, 3, 8, 8\] instead of \[6, 3, 8, 8\]"):
        adopt(factories.small(6), tmp_path, "factories_of_mine:small")


def test_what_a_factory_makes_has_no_other_source():
    with pytest.raises(ValueError, match="a factory makes the whole model"):
        ModelSpec(factory="a.b:c", pretrained=True)


def test_a_model_is_named_in_short():
    assert ModelSpec.model_validate("vit_tiny_patch16_224") == ModelSpec(name="vit_tiny_patch16_224", pretrained=True)
    assert ModelSpec.model_validate(Path("a/base.safetensors")) == ModelSpec(checkpoint="a/base.safetensors")


def test_a_detector_is_given_as_its_checkpoint(tiny_detection, tmp_path):
    with pytest.raises(UserError, match="a detector is given as its checkpoint"):
        adopt(load(tiny_detection.model_spec()).module, tmp_path)
