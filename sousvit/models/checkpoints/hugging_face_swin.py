"""Swin and Swin V2 of ``transformers`` as timm's."""

from __future__ import annotations

from typing import Any

from sousvit.models.checkpoints.checkpoint import Tensors
from sousvit.models.checkpoints.renaming import Conversion, Source, renaming

_SWIN: list[tuple[str, str | None]] = [
    (r"^swin(v2)?\.", ""),
    (r"mask_token$|relative_position_index$|relative_coords_table$|^pooler\.", None),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^encoder\.", ""),
    (r"\.attention\.self\.query\.weight$", ".attn.qkv.weight#0"),
    (r"\.attention\.self\.key\.weight$", ".attn.qkv.weight#1"),
    (r"\.attention\.self\.value\.weight$", ".attn.qkv.weight#2"),
    (r"\.attention\.self\.continuous_position_bias_mlp\.", ".attn.cpb_mlp."),
    (r"\.attention\.self\.(relative_position_bias_table|logit_scale)$", r".attn.\1"),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head.fc."),
]
_BIASES: list[tuple[str, str | None]] = [
    (r"\.attention\.self\.query\.bias$", ".attn.qkv.bias#0"),
    (r"\.attention\.self\.key\.bias$", ".attn.qkv.bias#1"),
    (r"\.attention\.self\.value\.bias$", ".attn.qkv.bias#2"),
]
_BIASES_V2: list[tuple[str, str | None]] = [
    (r"\.attention\.self\.query\.bias$", ".attn.q_bias"),
    (r"\.attention\.self\.value\.bias$", ".attn.v_bias"),
]


def swin(source: Source) -> Conversion:
    """Swin.

    Raises:
        UserError: position embeddings, or another activation.
    """
    source.require(hidden_act="gelu")
    return Conversion(*_parts(source, "swin_tiny_patch4_window7_224"), renaming([*_BIASES, *_SWIN]), _shifted)


def swin_v2(source: Source) -> Conversion:
    """Swin V2.

    Raises:
        UserError: position embeddings.
    """
    name, args, size = _parts(source, "swinv2_tiny_window8_256")
    args["act_layer"] = source.activation()
    windows = tuple(source.setting("pretrained_window_sizes", (0,) * len(args["depths"])))
    args["pretrained_window_sizes"] = (windows + (0,) * len(args["depths"]))[: len(args["depths"])]
    return Conversion(name, args, size, renaming([*_BIASES_V2, *_SWIN]), _shifted)


def _parts(source: Source, name: str) -> tuple[str, dict[str, Any], tuple[int, int]]:
    """Name, arguments and size of the input of either."""
    source.require(use_absolute_embeddings=False)
    size, patch = source.sides("image_size", 224), source.sides("patch_size", 4)
    depths, window = source.setting("depths", [2, 2, 6, 2]), source.setting("window_size", 7)
    _require_windows(source, size, patch, len(depths), window)
    args = {
        "img_size": list(size),
        "patch_size": list(patch),
        "in_chans": source.setting("num_channels", 3),
        "num_classes": source.num_classes(),
        "embed_dim": source.setting("embed_dim", 96),
        "depths": list(depths),
        "num_heads": list(source.setting("num_heads", [3, 6, 12, 24])),
        "window_size": window,
        "mlp_ratio": source.setting("mlp_ratio", 4.0),
        "qkv_bias": source.setting("qkv_bias", True),
        "layer_norm_eps": {"": source.setting("layer_norm_eps", 1e-5), "patch_embed": 1e-5, "downsample": 1e-5},
    }
    return name, args, size


def _require_windows(source: Source, size: tuple[int, int], patch: tuple[int, int], stages: int, window: int) -> None:
    """Refuse rectangles of which one side is within a window and the other is not: the two libraries differ there."""
    for stage in range(stages):
        rows, columns = (side // part // 2**stage for side, part in zip(size, patch, strict=True))
        if rows != columns and min(rows, columns) <= window:
            raise source.foreign(f"image_size {list(size)}", "every side of every stage is longer than a window")


def _shifted(tensors: Tensors) -> Tensors:
    """Timm halves the resolution before a stage, ``transformers`` behind it."""
    found: Tensors = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        if parts[0] == "layers" and parts[2] == "downsample":
            parts[1] = str(int(parts[1]) + 1)
        found[".".join(parts)] = tensor
    return found
