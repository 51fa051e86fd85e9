"""Channels of the residual stream: how important each is, and their removal from every module that touches them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from sousvit.spaces.calibration.stream import TokenStream, new_linear
from sousvit.spaces.module_shape import final_readers

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

    from sousvit.spaces.context import Context


@torch.no_grad()
def variances(model: VisionTransformer, context: Context) -> torch.Tensor:
    """Variance of each channel over the calibration tokens ``[D]``, each block's share of the whole summed up."""
    stream = TokenStream(model, context, inputs=1)  # variances need few rows
    total = torch.zeros(model.embed_dim, dtype=torch.float64)
    for block in model.blocks:
        stream.through(block)
        variance = torch.cat([batch.flatten(0, 1) for batch in stream.batches]).double().var(0)
        total += variance / variance.sum().clamp_min(1e-30)
    return total


def reading_weights(model: VisionTransformer) -> torch.Tensor:
    """Norm of the weights that read each channel, ``[D]``."""
    total = torch.zeros(model.embed_dim, dtype=torch.float64)
    for block in model.blocks:
        for norm, layer in ((block.norm1, block.attn.qkv), (block.norm2, block.mlp.fc1)):
            gain = torch.ones(model.embed_dim) if norm.weight is None else norm.weight.detach()
            total += (layer.weight.detach() * gain).double().square().sum(0)
    return total.sqrt()


@torch.no_grad()
def keep_channels(model: VisionTransformer, kept: torch.Tensor) -> None:
    """Keep channels ``kept`` of the residual stream in every module that writes, carries or reads it."""
    width = model.embed_dim

    def cut(owner: nn.Module, name: str, dim: int) -> None:
        value = getattr(owner, name, None)
        if isinstance(value, nn.Parameter):
            setattr(owner, name, nn.Parameter(value.index_select(dim, kept).clone(), requires_grad=value.requires_grad))

    projection = model.patch_embed.proj
    cut(projection, "weight", 0)
    cut(projection, "bias", 0)
    projection.out_channels = len(kept)
    for name in ("cls_token", "reg_token", "dist_token", "pos_embed"):
        cut(model, name, 2)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm) and module.normalized_shape == (width,):
            cut(module, "weight", 0)
            cut(module, "bias", 0)
            module.normalized_shape = (len(kept),)
    for block in model.blocks:
        for scale in (block.ls1, block.ls2):
            cut(scale, "gamma", 0)
        attention, mlp = block.attn, block.mlp
        attention.qkv = _readers(attention.qkv, kept)
        mlp.fc1 = _readers(mlp.fc1, kept)
        attention.proj = _writers(attention.proj, kept)
        mlp.fc2 = _writers(mlp.fc2, kept)
    for owner, name in final_readers(model):
        setattr(owner, name, _readers(getattr(owner, name), kept))
    model.embed_dim = model.num_features = model.head_hidden_size = len(kept)
    for entry in model.feature_info:
        entry["num_chs"] = len(kept)


def _readers(layer: nn.Linear, kept: torch.Tensor) -> nn.Linear:
    return new_linear(layer, layer.weight[:, kept], layer.bias)


def _writers(layer: nn.Linear, kept: torch.Tensor) -> nn.Linear:
    return new_linear(layer, layer.weight[kept], None if layer.bias is None else layer.bias[kept])
