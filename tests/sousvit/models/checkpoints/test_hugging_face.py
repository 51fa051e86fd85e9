"""Converted models give the logits of ``transformers``, whatever their configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch

from sousvit.errors import UserError
from sousvit.models.checkpoints.forms import open_source
from sousvit.models.checkpoints.hugging_face import FAMILIES
from sousvit.models.checkpoints.renaming import Source, joined, ratio
from sousvit.models.load import create, load
from sousvit.specs import ModelSpec

pytest.importorskip("transformers")

#: Architecture (of docs/models_table.py), and what is odd in it.
ODD = [
    ("ViT", {"image_size": [32, 48], "patch_size": [8, 16], "intermediate_size": 50, "hidden_act": "relu"}),
    ("ViT", {"qkv_bias": False, "num_channels": 1, "layer_norm_eps": 0.1}),
    ("DeiT", {"hidden_size": 48, "num_attention_heads": 3, "hidden_act": "gelu_new"}),
    ("DeiT, distilled", {"image_size": [40, 24], "layer_norm_eps": 0.1}),
    ("DINOv2", {"use_swiglu_ffn": True, "layerscale_value": 0.3, "mlp_ratio": 3}),
    ("DINOv2", {"patch_size": 16, "image_size": 48, "qkv_bias": False}),
    ("DINOv2 with registers", {"num_register_tokens": 2, "use_swiglu_ffn": True}),
    ("CLIP", {"vision_config.hidden_act": "gelu", "vision_config.intermediate_size": 40}),
    ("CLIP", {"vision_config.layer_norm_eps": 0.1, "vision_config.image_size": 48}),
    ("SigLIP", {"vision_config.image_size": 36, "vision_config.hidden_act": "quick_gelu"}),
    ("SigLIP", {"vision_config.intermediate_size": 100, "vision_config.layer_norm_eps": 0.1}),
    ("BEiT", {"use_mean_pooling": False, "use_absolute_position_embeddings": True}),
    ("BEiT", {"use_relative_position_bias": False, "use_shared_relative_position_bias": True}),
    ("BEiT", {"layer_scale_init_value": 0.0, "intermediate_size": 50, "use_mask_token": True}),
    ("BEiT", {"use_relative_position_bias": False, "image_size": [32, 48], "layer_norm_eps": 0.1}),
    ("Swin", {"image_size": [40, 56], "qkv_bias": False, "mlp_ratio": 3.0}),
    ("Swin", {"image_size": 56, "patch_size": 4, "window_size": 7, "layer_norm_eps": 0.1}),
    ("Swin V2", {"image_size": [40, 56], "hidden_act": "relu", "pretrained_window_sizes": [6, 3]}),
    ("Swin V2", {"window_size": 8, "depths": [1, 2], "num_channels": 1, "layer_norm_eps": 0.1}),
    ("ConvNeXt", {"layer_scale_init_value": 0.0, "hidden_act": "relu", "layer_norm_eps": 0.1}),
    ("ConvNeXt", {"depths": [1, 2, 1, 1], "image_size": 96}),
    ("ConvNeXt V2", {"hidden_act": "silu", "num_channels": 1}),
    ("MobileViT", {"image_size": 96, "layer_norm_eps": 0.1}),
]


def saved(table, folder: Path, name: str, changes: dict) -> torch.nn.Module:
    """A small model of an architecture, saved; its numbers are the table's but for ``changes``."""
    kind, config, values = table.ARCHITECTURES[name]
    values = json.loads(json.dumps(values))
    for key, value in changes.items():
        part, _, inner = key.rpartition(".")
        (values[part] if part else values)[inner] = value
    module = table.hugging_face(kind, config, values)
    module.save_pretrained(folder)
    return module


def opened(folder: Path, **given) -> torch.nn.Module:
    return load(ModelSpec(checkpoint=str(folder), **given).resolved(Path()))


@pytest.mark.parametrize(("name", "changes"), ODD)
def test_odd_configurations_give_the_same_logits(table, tmp_path, name, changes):
    module, base = saved(table, tmp_path, name, changes), opened(tmp_path)
    assert base.num_classes == 3 and base.class_names == ("cat", "dog", "owl")
    assert table.difference(base.module, module, (base.channels, *base.size)) < 1e-3


FEATURES = [
    ("DINOv3ViTModel", "DINOv3ViTConfig", {"num_register_tokens": 4, "image_size": [32, 48]}),
    ("DINOv3ViTModel", "DINOv3ViTConfig", {"use_gated_mlp": True, "hidden_act": "silu", "rope_theta": 50.0}),
    ("DINOv3ConvNextModel", "DINOv3ConvNextConfig", None),
]


@pytest.mark.parametrize(("kind", "config", "changes"), FEATURES)
def test_dinov3_gives_the_same_features(table, tmp_path, kind, config, changes):
    stages = {key: value for key, value in table._STAGES.items() if key != "num_labels"}
    module = table.hugging_face(kind, config, stages if changes is None else {**table._TOWER, **changes})
    module.save_pretrained(tmp_path)
    base = opened(tmp_path, args={"num_classes": 0})
    images = torch.randn(2, 3, *base.size)
    with torch.no_grad():
        torch.testing.assert_close(base.module(images), module(images).pooler_output, atol=1e-4, rtol=1e-4)


def test_a_new_classifier_is_asked_for_and_is_zeros_in_every_process(table, tmp_path):
    table.hugging_face(*table._DINOV3).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has a classifier; received vit_small_patch16_dinov3_qkvb without one"):
        opened(tmp_path)
    base = opened(tmp_path, args={"num_classes": 5})
    assert base.num_classes == 5 and "its classifier is new" in base.notes[-1]
    assert not base.module(torch.randn(2, 3, 32, 32)).any()
    assert base.fingerprint == opened(tmp_path, args={"num_classes": 5}).fingerprint


@pytest.mark.parametrize("name", ["DINOv2", "DINOv2 with registers"])
def test_positions_are_resized_to_the_preprocessor_s_images_as_transformers_resizes_them(table, tmp_path, name):
    module = saved(table, tmp_path, name, {"image_size": 64})
    size = {"height": 48, "width": 24}
    values = {"image_processor_type": "ViTImageProcessor", "size": size, "image_mean": [0.1, 0.2, 0.3]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    base = opened(tmp_path)
    assert base.size == (48, 24) and base.mean == pytest.approx((0.1, 0.2, 0.3))
    assert table.difference(base.module, module, (3, 48, 24)) < 1e-3


def test_a_preprocessor_of_another_size_than_the_model_s_is_told(table, tmp_path):
    saved(table, tmp_path, "ViT", {})
    values = {"image_processor_type": "ViTImageProcessor", "size": {"height": 48, "width": 48}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    found = open_source(str(tmp_path))
    assert found.preprocess.size == (32, 32) and "other images than the model takes" in found.notes[-1]


def test_defaults_that_older_files_leave_out_are_those_of_transformers(table, tmp_path):
    """Version 4 wrote down only what differs from the defaults, for instance in the towers of CLIP."""
    module = saved(table, tmp_path, "ViT", {"patch_size": 16})
    config = json.loads((tmp_path / "config.json").read_text())
    usual = ("patch_size", "hidden_act", "layer_norm_eps", "qkv_bias", "num_channels", "id2label", "label2id")
    (tmp_path / "config.json").write_text(json.dumps({key: config[key] for key in config if key not in usual}))
    base = opened(tmp_path)
    assert base.class_names == () and base.num_classes == 3, "the classifier's own tensor says how many"
    assert table.difference(base.module, module, (3, 32, 32)) < 1e-3


def test_labels_that_only_count_name_nothing(table, tmp_path):
    saved(table, tmp_path, "ViT", {})
    config = json.loads((tmp_path / "config.json").read_text())
    for labels, names in (
        ({"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}, ()),
        ({"2": "c", "10": "d", "0": "a"}, ()),
        ({"2": "c", "1": "b", "0": "a"}, ("a", "b", "c")),
        ({"0": "a", "1": "b"}, ()),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, "id2label": labels}))
        assert open_source(str(tmp_path)).class_names == names


def test_arguments_of_the_user_are_added_to_those_that_were_found(table, tmp_path):
    saved(table, tmp_path, "ViT", {})
    base = opened(tmp_path, args={"drop_path_rate": 0.5})
    assert base.spec.args["drop_path_rate"] == 0.5 and base.spec.args["embed_dim"] == 32


REFUSED = [
    ("ViT", {"hidden_act": "gelu_10"}, "hidden_act is one of gelu"),
    ("ViT", {"problem_type": "multi_label_classification"}, "a classifier gives an image one class"),
    ("DINOv2", {"image_size": [32, 48]}, "a square grid of patches"),
    ("BEiT", {"hidden_act": "relu"}, "timm's architecture has hidden_act: gelu"),
    ("BEiT", {"image_size": [32, 48]}, "a square grid of patches"),
    ("Swin", {"use_absolute_embeddings": True}, "use_absolute_embeddings: True"),
    ("Swin", {"image_size": [16, 64]}, "longer than a window"),
    ("ConvNeXt", {"patch_size": 2}, "timm's architecture has patch_size: 4"),
    ("MobileViT", {"hidden_sizes": [64, 80, 128]}, "in the sizes xxs, xs and s"),
    ("MobileViT", {"output_stride": 16}, "output_stride: 16"),
]


@pytest.mark.parametrize(("name", "changes", "line"), REFUSED)
def test_what_timm_has_not_is_one_clear_line(table, tmp_path, name, changes, line):
    saved(table, tmp_path, name, changes)
    with pytest.raises(UserError, match=line) as caught:
        opened(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_broken_folder_is_one_clear_line(table, tmp_path):
    saved(table, tmp_path, "ViT", {})
    whole = (tmp_path / "config.json").read_text()
    for text, line in (("{", "config.json must be JSON"), ("[1]", "must be a JSON object"), ("{}", "None")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=line):
            open_source(str(tmp_path))
    (tmp_path / "config.json").write_text(whole)
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "OtherImageProcessor"}')
    with pytest.raises(UserError, match=r"describe it: model\.preprocess"):
        open_source(str(tmp_path))
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "model.safetensors").rename(tmp_path / "weights.safetensors")
    with pytest.raises(
        UserError, match=r"holds model\.safetensors or pytorch_model\.bin.*received config.json, weights"
    ):
        open_source(str(tmp_path))


def test_shards_stay_in_their_folder(table, tmp_path):
    saved(table, tmp_path, "ViT", {})
    (tmp_path / "model.safetensors").rename(tmp_path.parent / "elsewhere.safetensors")
    index = {"weight_map": {"vit.layernorm.bias": "../elsewhere.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="shards lie beside their index"):
        open_source(str(tmp_path))


def vit_sizes(width, depth, heads, mlp, **changes):
    sizes = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads, "intermediate_size": mlp}
    return {**sizes, **changes}


def stages(width, depths, heads, **changes):
    return {"embed_dim": width, "depths": depths, "num_heads": heads, **changes}


#: Released sizes: model type, settings, and timm's own name (with arguments) of the same.
BASE, LARGE = vit_sizes(768, 12, 12, 3072), vit_sizes(1024, 24, 16, 4096)
RELEASED = [
    ("vit", BASE, "vit_base_patch16_224", {}),
    ("vit", {**LARGE, "image_size": 384}, "vit_large_patch16_384", {}),
    ("vit", vit_sizes(1280, 32, 16, 5120, patch_size=14), "vit_huge_patch14_224", {}),
    ("deit", vit_sizes(192, 12, 3, 768), "deit_tiny_distilled_patch16_224", {}),
    ("dinov2", vit_sizes(384, 12, 6, 0, image_size=518), "vit_small_patch14_dinov2", {}),
    (
        "dinov2",
        vit_sizes(1536, 40, 24, 0, image_size=518, use_swiglu_ffn=True),
        "vit_giant_patch14_dinov2",
        {},
    ),
    (
        "dinov2_with_registers",
        vit_sizes(768, 12, 12, 0, image_size=518, patch_size=14),
        "vit_base_patch14_reg4_dinov2",
        {},
    ),
    (
        "dinov3_vit",
        vit_sizes(768, 12, 12, 3072, num_register_tokens=4),
        "vit_base_patch16_dinov3_qkvb",
        {"img_size": 224},
    ),
    (
        "dinov3_vit",
        vit_sizes(384, 12, 6, 1536, num_register_tokens=4, use_gated_mlp=True, hidden_act="silu"),
        "vit_small_plus_patch16_dinov3_qkvb",
        {"img_size": 224},
    ),
    ("clip", {"vision_config": {**LARGE, "patch_size": 14}}, "vit_large_patch14_clip_224", {"final_norm": False}),
    (
        "siglip",
        {"vision_config": vit_sizes(1152, 27, 16, 4304, patch_size=14)},
        "vit_so400m_patch14_siglip_gap_224",
        {},
    ),
    ("beit", {**LARGE, "use_relative_position_bias": True}, "beit_large_patch16_224", {}),
    ("swin", stages(128, [2, 2, 18, 2], [4, 8, 16, 32]), "swin_base_patch4_window7_224", {}),
    (
        "swinv2",
        stages(96, [2, 2, 6, 2], [3, 6, 12, 24], image_size=256, window_size=8),
        "swinv2_tiny_window8_256",
        {},
    ),
    ("convnext", {"hidden_sizes": [128, 256, 512, 1024], "depths": [3, 3, 27, 3]}, "convnext_base", {}),
    (
        "convnextv2",
        {"hidden_sizes": [40, 80, 160, 320], "depths": [2, 2, 6, 2]},
        "convnextv2_atto",
        {"conv_mlp": False},
    ),
    (
        "mobilevit",
        {"hidden_sizes": [144, 192, 240], "neck_hidden_sizes": [16, 32, 64, 96, 128, 160, 640]},
        "mobilevit_s",
        {},
    ),
]


@pytest.mark.parametrize(("kind", "config", "name", "args"), RELEASED, ids=[row[2] for row in RELEASED])
def test_released_sizes_become_timm_s_models_of_those_sizes(kind, config, name, args):
    classes = 0 if "dino" in kind else 10
    shapes = {"classifier.weight": (classes, 1), "cls_classifier.weight": (classes, 1)} if classes else {}
    shapes |= {"distillation_classifier.weight": (classes, 1)} if kind == "deit" else {}
    source = Source({"model_type": kind, **config}, shapes, kind, None, Path("here"))
    conversion = FAMILIES[kind](source)
    with torch.device("meta"):
        ours = create(ModelSpec(name=conversion.name, args=conversion.args))
        theirs = timm.create_model(name, num_classes=classes, **args)
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in theirs.state_dict().items()
    }
    assert type(ours) is type(theirs)


def test_parts_are_joined_in_their_order_and_a_missing_bias_is_zeros():
    one, two, three = (torch.full((2,), float(value)) for value in (1, 2, 3))
    assert joined({"b#2": three, "b#0": one, "b#1": two})["b"].tolist() == [1, 1, 2, 2, 3, 3]
    assert joined({"b#2": three, "b#0": one})["b"].tolist() == [1, 1, 0, 0, 3, 3]


def test_the_ratio_gives_exactly_the_units():
    for width in (32, 48, 192, 384, 768, 1152, 1280, 1408):
        for hidden in range(1, 3 * width, 7):
            assert int(width * ratio(hidden, width)) == hidden
