"""ConvNeXt, ConvNeXt V2 and DINOv3's ConvNeXt of ``transformers`` as timm's."""

from __future__ import annotations

from typing import Any

from sousvit.models.checkpoints.checkpoint import Tensors
from sousvit.models.checkpoints.renaming import Conversion, Source, renaming

_BLOCKS: list[tuple[str, str | None]] = [
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.depthwise_conv\.", ".conv_dw."),
    (r"\.(layers\.\d+)\.(layernorm|layer_norm)\.", r".\1.norm."),
    (r"\.layers\.", ".blocks."),
    (r"\.p(?:oint)?w(?:ise_)?conv(\d)\.", r".mlp.fc\1."),
    (r"\.(layer_scale_parameter|gamma)$", ".gamma"),
]
_CONVNEXT: list[tuple[str, str | None]] = [
    (r"^convnext(v2)?\.", ""),
    (r"^embeddings\.patch_embeddings\.", "stem.0."),
    (r"^embeddings\.layernorm\.", "stem.1."),
    (r"^encoder\.", ""),
    (r"\.downsampling_layer\.", ".downsample."),
    (r"\.grn\.", ".mlp.grn."),
    *_BLOCKS,
    (r"^layernorm\.", "head.norm."),
    (r"^classifier\.", "head.fc."),
]
_DINOV3: list[tuple[str, str | None]] = [
    (r"^model\.", ""),
    (r"^stages\.0\.downsample_layers\.", "stem."),
    (r"\.downsample_layers\.", ".downsample."),
    *_BLOCKS,
    (r"^(layer_norm|norm)\.", "head.norm."),
]


def _args(source: Source, eps: float) -> tuple[dict[str, Any], tuple[int, int]]:
    """Arguments, and the size of the input, which is no argument of a network of convolutions."""
    dims, depths = source.setting("hidden_sizes", [96, 192, 384, 768]), source.setting("depths", [3, 3, 9, 3])
    if len(dims) != 4:
        raise source.foreign(f"{len(dims)} stages", "timm's ConvNeXt has four stages")
    source.require(patch_size=4)  # behind another stem timm divides the resolution otherwise
    size, channels = source.preprocessed or source.sides("image_size", 224), source.setting("num_channels", 3)
    args = {
        "in_chans": channels,
        "num_classes": source.num_classes(),
        "depths": list(depths),
        "dims": list(dims),
        "act_layer": source.activation(),
        "layer_norm_eps": {"head.norm": source.setting("layer_norm_eps", eps)},
        "pretrained_cfg_overlay": {"input_size": [channels, *size]},
    }
    return args, size


def convnext(source: Source) -> Conversion:
    """ConvNeXt and ConvNeXt V2: the norm before the classifier has the epsilon of the settings, the others 1e-6."""
    args, size = _args(source, 1e-12)
    second = source.config["model_type"] == "convnextv2"
    scale = 0.0 if second else source.setting("layer_scale_init_value", 1e-6)
    args |= {"use_grn": second, **({"ls_init_value": scale} if scale > 0 else {})}

    def finish(tensors: Tensors) -> Tensors:
        return {name: tensor.flatten() if ".grn." in name else tensor for name, tensor in tensors.items()}

    name = "convnext_tiny" if scale > 0 else "convnextv2_tiny"  # timm's models with a layer scale, and without
    return Conversion(name, args, size, renaming(_CONVNEXT), finish)


def dinov3_convnext(source: Source) -> Conversion:
    """DINOv3's ConvNeXt, which has no classifier of its own."""
    args, size = _args(source, 1e-6)
    args["ls_init_value"] = source.setting("layer_scale_init_value", 1e-6)
    return Conversion("convnext_tiny", args, size, renaming(_DINOV3))
