"""Shapes of real modules: the check for a plain VisionTransformer, its shape, and the MACs of any network.

Importing this file loads no torch; whoever has a module has loaded it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sousvit.errors import UserError
from sousvit.spaces.shape import BlockShape, OtherShape, VitShape

if TYPE_CHECKING:
    from timm.models.vision_transformer import Block, VisionTransformer
    from torch import nn


def shape_of(
    model: nn.Module, name: str, image: tuple[int, int], channels: int, num_classes: int
) -> VitShape | OtherShape:
    """The shape of any network that takes ``[B, channels, *image]``; one that is no plain ViT is run once.

    Branches that are folded before export count as what they become.
    """
    from sousvit.spaces.layers.merging import merged
    from sousvit.spaces.layers.quantized import image_readers

    if unsupported_reason(model) is None:
        return read_vit_shape(model)
    model = merged(model)
    macs = macs_of(model, (channels, *image))
    sizes = [(parameter.numel(), parameter.ndim > 1) for parameter in model.parameters()]
    weights = sum(size for size, is_matrix in sizes if is_matrix)
    linear = len(image_readers(model, (channels, *image)))
    return OtherShape(name, image, channels, num_classes, sum(size for size, _ in sizes), macs, weights, linear)


def vit_shape(model: nn.Module) -> VitShape:
    """The shape of a plain VisionTransformer.

    Raises:
        UserError: it is not one.
    """
    reason = unsupported_reason(model)
    if reason is not None:
        raise UserError(
            "the model must be a plain timm VisionTransformer",
            f"{type(model).__name__}: {reason}",
            "choose a vit_* or deit* model",
        )
    return read_vit_shape(model)


def unsupported_reason(model: Any) -> str | None:
    """Why ``model`` is no plain VisionTransformer (one phrase), or None if it is one."""
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.vision_transformer import VisionTransformer

    if type(model) not in (VisionTransformer, VisionTransformerDistilled):
        return "another architecture"
    for check in (_patch_reason, _head_reason):
        reason = check(model)
        if reason is not None:
            return reason
    return next((reason for reason in map(_block_reason, model.blocks) if reason is not None), None)


def _patch_reason(model: VisionTransformer) -> str | None:
    from timm.layers import PatchEmbed
    from torch import nn

    embed = model.patch_embed
    if type(embed) is not PatchEmbed or not isinstance(embed.proj, nn.Conv2d):
        return f"patch embedding {type(embed).__name__}"
    if embed.img_size is None:
        return "no fixed image size"
    if any(size % part for size, part in zip(embed.img_size, embed.patch_size, strict=True)):
        return "patches that do not tile the image"
    return None


def _head_reason(model: VisionTransformer) -> str | None:
    from torch import nn

    from sousvit.models.class_and_mean import ClassAndMean
    from sousvit.models.detector import head_of

    if getattr(model, "attn_pool", None) is not None:
        return "attention pooling"
    if head_of(model) is not None:
        return "a detection head that does not read all tokens" if model.global_pool else None
    if isinstance(model.head, ClassAndMean):
        return None
    heads = (model.head, getattr(model, "head_dist", nn.Identity()))
    if not all(isinstance(head, (nn.Linear, nn.Identity)) for head in heads):
        return f"classifier {type(model.head).__name__}"
    return None


def _block_reason(block: Block) -> str | None:
    from timm.layers import Attention, Mlp
    from timm.models.vision_transformer import Block
    from torch import nn

    from sousvit.spaces.layers.attention import EfficientAttention
    from sousvit.spaces.layers.low_rank import LowRankLinear
    from sousvit.spaces.layers.quantized import QuantLinear

    if type(block) is not Block:
        return f"blocks of type {type(block).__name__}"
    if type(block.attn) not in (Attention, EfficientAttention):
        return f"attention of type {type(block.attn).__name__}"
    if type(block.mlp) is not Mlp or not isinstance(block.mlp.fc1, (nn.Linear, LowRankLinear, QuantLinear)):
        return f"MLP of type {type(block.mlp).__name__}"
    if getattr(block.attn, "gate", None) is not None:
        return "gated attention"
    inner_norms = (getattr(block.attn, "norm", nn.Identity()), getattr(block.mlp, "norm", nn.Identity()))
    if not all(isinstance(norm, nn.Identity) for norm in inner_norms):
        return "norms inside attention or MLP (scale_norm)"
    return None


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def read_vit_shape(model: VisionTransformer) -> VitShape:
    """The shape of a model for which :func:`unsupported_reason` is None."""
    from sousvit.models.class_and_mean import CLASS_AND_MEAN, ClassAndMean
    from sousvit.models.detector import head_of

    embed = model.patch_embed
    classifiers = [] if head_of(model) is not None else [getattr(*reader) for reader in final_readers(model)]
    position = None if model.pos_embed is None else model.pos_embed.shape[1] - embed.num_patches
    shape = VitShape(
        image=(int(embed.img_size[0]), int(embed.img_size[1])),
        channels=embed.proj.in_channels,
        patch=(int(embed.patch_size[0]), int(embed.patch_size[1])),
        embed_dim=model.embed_dim,
        num_prefix_tokens=model.num_prefix_tokens,
        num_position_tokens=position,
        num_classes=classifiers[0].out_features if classifiers else 0,
        num_classifiers=len(classifiers),
        pool=CLASS_AND_MEAN if isinstance(model.head, ClassAndMean) else model.global_pool,
        other_params=0,
        blocks=(),
    )
    kept = getattr(model.patch_drop, "count", shape.num_patches)  # the contract of layers/patch_selector.py
    shape = replace(shape, dropped=shape.num_patches - kept)
    tokens = shape.num_tokens
    own = [embed.proj.bias, *(getattr(model, name, None) for name in ("cls_token", "reg_token", "dist_token"))]
    norms = [getattr(model, name, None) for name in ("norm_pre", "norm", "fc_norm")]
    detector = head_of(model)
    if detector is not None:
        own.append(detector.reduce.weight)
        behind = sum(weight.numel() for weight in detector.fcos.parameters() if weight.ndim > 1)
        shape = replace(shape, head_channels=detector.reduce.out_features, head_macs=detector.dense_macs)
        shape = replace(shape, head_weights=behind)
    shape = replace(shape, width_params=_per_channel([*own, *norms], model.embed_dim))
    shape = shape.with_blocks(_read_block(block, tokens) for block in model.blocks)
    if getattr(model.blocks, "norm", None) is not None:  # TokenBlocks has taken over the final norm
        shape = replace(shape, width_params=shape.width_params + _per_channel([model.blocks.norm], model.embed_dim))
    shape = replace(shape, other_params=_count(model) - shape.params() - _step_sizes(model))
    reduction = getattr(model.blocks, "token_plan", None)  # the contract of layers/token_blocks.py
    return shape if reduction is None else shape.with_tokens(*reduction(shape))


def final_readers(model: Any) -> list[tuple[nn.Module, str]]:
    """(owner, attribute name) of the linear layers that read the tokens behind the last norm."""
    from torch import nn

    from sousvit.models.class_and_mean import ClassAndMean
    from sousvit.models.detector import head_of

    detector = head_of(model)
    if detector is not None:
        return [(detector, "reduce")]
    if isinstance(model.head, ClassAndMean):
        return [(model.head, "token"), (model.head, "mean")]
    return [(model, name) for name in ("head", "head_dist") if isinstance(getattr(model, name, None), nn.Linear)]


def _per_channel(parts: Iterable[nn.Module | nn.Parameter | None], width: int) -> int:
    """Parameters of ``parts`` per embedding channel."""
    from torch import nn

    sizes = [_count(part) if isinstance(part, nn.Module) else part.numel() for part in parts if part is not None]
    return sum(sizes) // width


def _step_sizes(model: nn.Module) -> int:
    """Number of scales in quantized layers, which do not count as parameters of the network."""
    from sousvit.spaces.layers.quantized import QuantLinear

    found = [module for module in model.modules() if isinstance(module, QuantLinear)]
    return sum(module.weight_scale.numel() + module.act_scale.numel() for module in found)


def _read_block(block: Block, tokens: int) -> BlockShape:
    from sousvit.spaces.layers.low_rank import rank_of

    attention, mlp = block.attn, block.mlp
    width = attention.qkv.in_features
    kind = getattr(attention, "kind", "softmax")
    grid = getattr(attention, "grid", (0, 0))
    layers = (attention.qkv, attention.proj, mlp.fc1, mlp.fc2)
    qkv, proj, fc1, fc2 = (rank_of(layer) for layer in layers)
    per_channel = [block.norm1, block.norm2, block.ls1, block.ls2, attention.proj.bias, mlp.fc2.bias]
    shape = BlockShape(
        heads=attention.num_heads,
        head_dim=attention.head_dim,
        mlp=mlp.fc1.out_features,
        tokens_in=tokens,
        tokens_mlp=tokens,
        qkv_bias=attention.qkv.bias is not None,
        fc1_bias=mlp.fc1.bias is not None,
        ranks=(qkv, proj, fc1, fc2),
        attention=kind,
        landmarks=getattr(attention, "landmarks", 0),
        conv_tokens=grid[0] * grid[1] if kind == "focused" else 0,
        width_params=_per_channel(per_channel, width),
    )
    return replace(shape, other_params=_count(block) - _step_sizes(block) - shape.params(width))


def macs_of(model: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of one image ``(channels, height, width)`` through any module, by running it once.

    Counts matrix products and convolutions. Fused attention is run by its plain form, whose products are
    counted; the CPU's fused kernel would go uncounted.
    """
    import torch
    from torch.func import functional_call
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    was_training = model.training
    model.eval()
    parameter = next(model.parameters(), torch.zeros(()))
    image = torch.zeros(1, *input_shape, device=parameter.device, dtype=parameter.dtype)
    # The counter follows tensors that ask for gradients, and stumbles over parameters that are given to modules.
    plain = {name: value.detach() for name, value in model.named_parameters()}
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        functional_call(model, plain, (image,))
    model.train(was_training)
    return int(counter.get_total_flops()) // 2
