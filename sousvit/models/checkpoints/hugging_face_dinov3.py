"""DINOv3's vision transformers of ``transformers`` as timm's Eva. They are saved without a classifier."""

from __future__ import annotations

from sousvit.models.checkpoints.checkpoint import Tensors
from sousvit.models.checkpoints.renaming import Conversion, Source, ratio, renaming

_DINOV3: list[tuple[str, str | None]] = [
    (r"^(dinov3_vit|backbone)\.", ""),
    (r"mask_token$|inv_freq$", None),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"^(model\.)?layer\.", "blocks."),
    (r"\.attention\.q_proj\.weight$", ".attn.qkv.weight#0"),
    (r"\.attention\.k_proj\.weight$", ".attn.qkv.weight#1"),
    (r"\.attention\.v_proj\.weight$", ".attn.qkv.weight#2"),
    (r"\.attention\.(q|v)_proj\.bias$", r".attn.\1_bias"),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.layer_scale(\d)\.lambda1$", r".gamma_\1"),
    (r"\.mlp\.gate_proj\.", ".mlp.fc1_g."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
]
_PLAIN, _GATED = (r"\.mlp\.up_proj\.", ".mlp.fc1."), (r"\.mlp\.up_proj\.", ".mlp.fc1_x.")


def dinov3(source: Source) -> Conversion:
    """DINOv3: the class token is what its model calls its output.

    Raises:
        UserError: another activation or other biases than those of timm's.
    """
    gated = source.setting("use_gated_mlp", False)
    source.require(hidden_act="silu" if gated else "gelu", key_bias=False, proj_bias=True, mlp_bias=True)
    biased = source.setting("query_bias", True)
    source.require(value_bias=biased)
    size, width = source.preprocessed or source.sides("image_size", 224), source.setting("hidden_size", 384)
    registers = source.setting("num_register_tokens", 0)
    args = {
        "img_size": list(size),
        "patch_size": list(source.sides("patch_size", 16)),
        "in_chans": source.setting("num_channels", 3),
        "num_classes": 0,
        "global_pool": "token",
        "embed_dim": width,
        "depth": source.setting("num_hidden_layers", 12),
        "num_heads": source.setting("num_attention_heads", 6),
        "mlp_ratio": ratio(source.setting("intermediate_size", 1536), width),
        "swiglu_mlp": gated,
        "swiglu_align_to": 1 if gated else 0,  # with it, gate and value are layers of their own
        "qkv_bias": biased,
        "init_values": source.setting("layerscale_value", 1.0),
        "num_reg_tokens": registers,
        "rope_temperature": source.setting("rope_theta", 100.0),
        "layer_norm_eps": source.setting("layer_norm_eps", 1e-5),
        "dynamic_img_size": False,
    }

    def finish(tensors: Tensors) -> Tensors:
        return {name: tensor for name, tensor in tensors.items() if registers or name != "reg_token"}

    rename = renaming([*_DINOV3, _GATED if gated else _PLAIN])
    return Conversion("vit_small_patch16_dinov3_qkvb", args, size, rename, finish)
