"""Plain vision transformers of ``transformers`` as timm's VisionTransformer: ViT, DeiT, DINOv2, CLIP, SigLIP."""

from __future__ import annotations

from typing import Any

from sousvit.models.checkpoints.checkpoint import Tensors
from sousvit.models.checkpoints.renaming import Conversion, Source, ratio, renaming

_SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large"}
#: Encoders with the names of BERT's parts.
BERT_BLOCKS: list[tuple[str, str | None]] = [
    (r"\.attention\.attention\.query\.(weight|bias)$", r".attn.qkv.\1#0"),
    (r"\.attention\.attention\.key\.(weight|bias)$", r".attn.qkv.\1#1"),
    (r"\.attention\.attention\.value\.(weight|bias)$", r".attn.qkv.\1#2"),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
]
_VIT: list[tuple[str, str | None]] = [
    (r"^(vit|deit|dinov2|dinov2_with_registers)\.", ""),
    (r"^pooler\.|mask_token$", None),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.", "blocks."),
    *BERT_BLOCKS,
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
    (r"^(cls_)?classifier\.", "head."),
]
#: Towers of models of images and text.
_TOWER: list[tuple[str, str | None]] = [
    (r"position_ids$|^vision_model\.head\.|^text_model\.|^logit_|_projection\.weight$", None),
    (r"^vision_model\.", ""),
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^encoder\.layers\.", "blocks."),
    (r"\.self_attn\.q_proj\.(weight|bias)$", r".attn.qkv.\1#0"),
    (r"\.self_attn\.k_proj\.(weight|bias)$", r".attn.qkv.\1#1"),
    (r"\.self_attn\.v_proj\.(weight|bias)$", r".attn.qkv.\1#2"),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^classifier\.", "head."),
]


def _args(
    source: Source, size: tuple[int, int], patch: int = 16, eps: float = 1e-12, act: str = "gelu"
) -> dict[str, Any]:
    """Arguments that all of them share; the last three are defaults of ``transformers``."""
    width = source.setting("hidden_size", 768)
    return {
        "img_size": list(size),
        "patch_size": list(source.sides("patch_size", patch)),
        "in_chans": source.setting("num_channels", 3),
        "embed_dim": width,
        "depth": source.setting("num_hidden_layers", 12),
        "num_heads": source.setting("num_attention_heads", 12),
        "mlp_ratio": ratio(source.setting("intermediate_size", 3072), width),
        "qkv_bias": source.setting("qkv_bias", True),
        "act_layer": source.activation(act),
        "layer_norm_eps": source.setting("layer_norm_eps", eps),
    }


def _size_name(args: dict[str, Any]) -> str:
    """The word of timm for the nearest width; the arguments say the rest."""
    return _SIZES[min(_SIZES, key=lambda width: abs(width - args["embed_dim"]))]


def vit(source: Source) -> Conversion:
    """ViT and ViT-MSN: the classifier reads the class token."""
    size = source.sides("image_size", 224)
    eps = 1e-6 if source.config["model_type"] == "vit_msn" else 1e-12
    args = {**_args(source, size, eps=eps), "num_classes": source.num_classes(), "global_pool": "token"}
    return Conversion(f"vit_{_size_name(args)}_patch16_224", args, size, renaming(_VIT))


def deit(source: Source) -> Conversion:
    """DeiT: with a teacher two classifiers whose mean counts; without, its distillation token is one more token."""
    size = source.sides("image_size", 224)
    args = _args(source, size)
    kind = {"large": "base"}.get(_size_name(args), _size_name(args))
    if "distillation_classifier.weight" in source.shapes:
        args |= {"num_classes": source.num_classes("cls_classifier.weight"), "global_pool": "token"}
        rules = [("^deit.embeddings.distillation_token$", "dist_token"), ("^distillation_classifier", "head_dist")]
        return Conversion(f"deit_{kind}_distilled_patch16_224", args, size, renaming([*rules, *_VIT]))
    args |= {"num_classes": source.num_classes(), "global_pool": "token", "reg_tokens": 1}
    rules = [(r"^(deit\.)?embeddings\.distillation_token$", "reg_token")]
    return Conversion(f"deit_{kind}_patch16_224", args, size, renaming([*rules, *_VIT]))


def dinov2(source: Source) -> Conversion:
    """DINOv2, with registers or without: the classifier reads the class token and the mean of the patches.

    Its position embeddings are resized to the images that come, so the model is made for those of its preprocessor.

    Raises:
        UserError: it was trained on rectangles, which ``transformers`` itself cannot resize.
    """
    trained, classes = source.sides("image_size", 224), source.num_classes()
    if trained[0] != trained[1]:
        raise source.foreign(f"image_size {list(trained)}", "position embeddings are of a square grid of patches")
    size = source.preprocessed or trained
    registers = source.setting("num_register_tokens", 4) if source.config["model_type"] != "dinov2" else 0
    args = _args(source, size, patch=16 if registers else 14, eps=1e-6)
    width = args["embed_dim"]
    hidden = int(width * source.setting("mlp_ratio", 4))
    gated = bool(source.setting("use_swiglu_ffn", False))
    if gated:
        hidden = 2 * ((int(hidden * 2 / 3) + 7) // 8 * 8)  # as transformers rounds; both halves are one layer
        args["act_layer"] = "silu"
    args |= {"mlp_ratio": ratio(hidden, width), "init_values": source.setting("layerscale_value", 1.0)}
    args |= {"reg_tokens": registers, "no_embed_class": registers > 0, "num_classes": classes}
    args |= {"global_pool": "token"} if not classes else {"head": "class_and_mean"}
    kind = "giant" if gated else _size_name(args)
    name = f"vit_{'small' if kind == 'tiny' else kind}_patch14_{'reg4_' if registers else ''}dinov2"
    patch = args["patch_size"]
    before, now = ((side[0] // patch[0], side[1] // patch[1]) for side in (trained, size))

    def finish(tensors: Tensors) -> Tensors:
        tensors["pos_embed"] = _resized_positions(tensors["pos_embed"], before, now, registers > 0)
        if registers:  # in timm the class token carries its own position
            tensors["cls_token"] = tensors["cls_token"] + tensors["pos_embed"][:, :1]
            tensors["pos_embed"] = tensors["pos_embed"][:, 1:]
        if classes:
            weight = tensors.pop("head.weight")
            bias = tensors.pop("head.bias")
            tensors |= {"head.token.weight": weight[:, :width], "head.token.bias": bias}
            tensors |= {"head.mean.weight": weight[:, width:], "head.mean.bias": bias * 0}
        return tensors

    return Conversion(name, args, size, renaming(_VIT), finish)


def _resized_positions(positions: Any, trained: tuple[int, int], wanted: tuple[int, int], antialias: bool) -> Any:
    """Position embeddings ``[1, 1 + patches, D]`` of another grid, as ``transformers`` resizes them on the way."""
    import torch
    from torch.nn.functional import interpolate

    if trained == wanted:
        return positions
    grid = positions[:, 1:].reshape(1, *trained, -1).permute(0, 3, 1, 2)
    grid = interpolate(grid, size=wanted, mode="bicubic", align_corners=False, antialias=antialias)
    return torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], 1)


def clip(source: Source) -> Conversion:
    """CLIP's image tower: the classifier reads the mean of the patches, without the tower's last norm."""
    tower = source.part("vision_config")
    size = tower.sides("image_size", 224)
    args = _args(tower, size, patch=32, eps=1e-5, act="quick_gelu")
    args |= {"pre_norm": True, "final_norm": False, "global_pool": "avg", "num_classes": source.num_classes()}
    rules: list[tuple[str, str | None]] = [(r"post_layernorm\.", None), *_TOWER]
    return Conversion("vit_base_patch16_clip_224", args, size, renaming(rules), _with_a_batch)


def siglip(source: Source) -> Conversion:
    """SigLIP's image tower: the classifier reads the mean of the normed patches, and there is no class token."""
    tower = source.part("vision_config")
    size = tower.sides("image_size", 224)
    args = _args(tower, size, eps=1e-6, act="gelu_pytorch_tanh")
    args |= {"class_token": False, "fc_norm": False, "global_pool": "avg", "num_classes": source.num_classes()}
    rules: list[tuple[str, str | None]] = [(r"^vision_model\.post_layernorm\.", "norm."), *_TOWER]
    return Conversion("vit_base_patch16_siglip_gap_224", args, size, renaming(rules), _with_a_batch)


def _with_a_batch(tensors: Tensors) -> Tensors:
    """Timm's class token and positions have a dimension for the batch."""
    found = {name: tensors[name] for name in ("cls_token", "pos_embed") if name in tensors}
    return tensors | {name: tensor.reshape(1, -1, tensor.shape[-1]) for name, tensor in found.items()}
