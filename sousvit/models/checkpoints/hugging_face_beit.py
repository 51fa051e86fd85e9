"""BEiT (and Data2Vec's image model, which is one) of ``transformers`` as timm's Beit."""

from __future__ import annotations

from sousvit.models.checkpoints.checkpoint import Tensors
from sousvit.models.checkpoints.hugging_face_vit import BERT_BLOCKS
from sousvit.models.checkpoints.renaming import Conversion, Source, ratio, renaming

_BEIT: list[tuple[str, str | None]] = [
    (r"^(beit|data2vec_vision)\.", ""),
    (r"mask_token$|relative_position_index$", None),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.relative_position_bias\.", "rel_pos_bias."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.attention\.relative_position_bias\.", ".attn."),
    (r"\.attention\.attention\.query\.bias$", ".attn.q_bias"),
    (r"\.attention\.attention\.value\.bias$", ".attn.v_bias"),
    *BERT_BLOCKS,
    (r"\.lambda_(\d)$", r".gamma_\1"),
    (r"^pooler\.layernorm\.", "fc_norm."),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
]


def beit(source: Source) -> Conversion:
    """BEiT: the classifier reads the mean of the patches or, where the settings say so, the class token.

    Raises:
        UserError: position biases of patches in a rectangle, which ``transformers`` stretches, or another activation.
    """
    source.require(hidden_act="gelu")
    size, width = source.sides("image_size", 224), source.setting("hidden_size", 768)
    patch = source.sides("patch_size", 16)
    biases = source.setting("use_relative_position_bias", False)
    shared = source.setting("use_shared_relative_position_bias", False)
    if (biases or shared) and size[0] * patch[1] != size[1] * patch[0]:
        raise source.foreign(f"a grid for {list(size)}", "relative position biases are of a square grid of patches")
    mean, scale = source.setting("use_mean_pooling", True), source.setting("layer_scale_init_value", 0.1)
    args = {
        "img_size": list(size),
        "patch_size": list(patch),
        "in_chans": source.setting("num_channels", 3),
        "num_classes": source.num_classes(),
        "embed_dim": width,
        "depth": source.setting("num_hidden_layers", 12),
        "num_heads": source.setting("num_attention_heads", 12),
        "mlp_ratio": ratio(source.setting("intermediate_size", 3072), width),
        "init_values": max(0.0, scale),  # timm takes 0 for none, and leaves out arguments that are None
        "use_abs_pos_emb": source.setting("use_absolute_position_embeddings", False),
        "use_rel_pos_bias": biases,
        "use_shared_rel_pos_bias": shared,
        "global_pool": "avg" if mean else "token",
        "layer_norm_eps": source.setting("layer_norm_eps", 1e-12),
    }

    def finish(tensors: Tensors) -> Tensors:
        # Where patches are averaged, the class token's norm is not read.
        return {name: tensor for name, tensor in tensors.items() if not (mean and name.startswith("norm."))}

    return Conversion("beit_base_patch16_224", args, size, renaming(_BEIT), finish)
