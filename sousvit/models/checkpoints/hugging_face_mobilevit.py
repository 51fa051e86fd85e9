"""MobileViT of ``transformers`` as timm's, which has three sizes of it."""

from __future__ import annotations

from sousvit.models.checkpoints.hugging_face_vit import BERT_BLOCKS
from sousvit.models.checkpoints.renaming import Conversion, Source, renaming

#: Widths of the stages (transformers, and convolutions) and the expansion of timm's models.
_KNOWN = {
    "mobilevit_xxs": ([64, 80, 96], [16, 16, 24, 48, 64, 80, 320], 2.0),
    "mobilevit_xs": ([96, 120, 144], [16, 32, 48, 64, 80, 96, 384], 4.0),
    "mobilevit_s": ([144, 192, 240], [16, 32, 64, 96, 128, 160, 640], 4.0),
}
_CONVOLUTIONS = {"expand_1x1": "conv1_1x1", "conv_3x3": "conv2_kxk", "reduce_1x1": "conv3_1x1"}
_MOBILEVIT: list[tuple[str, str | None]] = [
    (r"^mobilevit\.", ""),
    (r"^conv_stem\.", "stem."),
    (r"^conv_1x1_exp\.", "final_conv."),
    (r"\.conv_1x1\.convolution\.", ".conv_1x1."),  # the one convolution without a norm
    (r"\.convolution\.", ".conv."),
    (r"\.normalization\.", ".bn."),
    (r"^encoder\.layer\.(\d+)\.layer\.(\d+)\.", r"stages.\1.\2."),
    (r"^encoder\.layer\.(\d+)\.downsampling_layer\.", r"stages.\1.0."),
    (r"^encoder\.layer\.(\d+)\.", r"stages.\1.1."),
    *((rf"\.{old}\.", f".{new}.") for old, new in _CONVOLUTIONS.items()),
    (r"\.conv_projection\.", ".conv_proj."),
    (r"\.fusion\.", ".conv_fusion."),
    (r"\.transformer\.layer\.", ".transformer."),
    (r"\.1\.layernorm\.", ".1.norm."),
    *BERT_BLOCKS,
    (r"^classifier\.", "head.fc."),
]


def mobilevit(source: Source) -> Conversion:
    """MobileViT.

    Raises:
        UserError: none of timm's three sizes, or other settings than theirs.
    """
    source.require(hidden_act="silu", num_attention_heads=4, mlp_ratio=2.0, output_stride=32, patch_size=2)
    source.require(conv_kernel_size=3, qkv_bias=True)
    widths = (
        source.setting("hidden_sizes", [144, 192, 240]),
        source.setting("neck_hidden_sizes", [16, 32, 64, 96, 128, 160, 640]),
        source.setting("expand_ratio", 4.0),
    )
    name = next((name for name, known in _KNOWN.items() if known == widths), None)
    if name is None:
        raise source.foreign(f"hidden_sizes {widths[0]}", "timm has MobileViT in the sizes xxs, xs and s")
    size, channels = source.preprocessed or source.sides("image_size", 256), source.setting("num_channels", 3)
    args = {
        "in_chans": channels,
        "num_classes": source.num_classes(),
        "layer_norm_eps": source.setting("layer_norm_eps", 1e-5),
        "pretrained_cfg_overlay": {"input_size": [channels, *size]},
    }
    return Conversion(name, args, size, renaming(_MOBILEVIT))
