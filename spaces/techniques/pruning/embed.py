"""Fewer embedding channels: the width of every token."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from sousvit.spaces.calibration.repair import Moments, ridge_fit
from sousvit.spaces.calibration.stream import (
    TokenStream,
    best_units,
    captured_inputs,
    check_deadline,
    new_linear,
)
from sousvit.spaces.context import Context
from sousvit.spaces.module_shape import final_readers, vit_shape
from sousvit.spaces.shape import VitShape
from sousvit.spaces.technique import Choices, ModelTechnique, Stage, StepConfig

if TYPE_CHECKING:
    from timm.models.vision_transformer import Block, VisionTransformer

MULTIPLE = 16


class PruneEmbedConfig(StepConfig):
    """``keep``: share of the channels that stay, in multiples of 16. ``importance``: by the variance of a channel over
    tokens and blocks, or by the weights that read it. ``compensate``: refit what reads the narrower tokens.
    """

    keep: float = Field(default=0.75, gt=0, le=1)
    importance: Literal["activation", "magnitude"] = "activation"
    compensate: bool = True


class PruneEmbed(ModelTechnique):
    """Keeps the same channels of the residual stream everywhere.

    The layers that read normalised tokens (``qkv``, ``fc1``, the classifier or detection head) are refitted block by
    block: ridge regression of what they gave in the full model on the narrow tokens they read now.
    """

    name: ClassVar[str] = "prune_embed"
    stage: ClassVar[Stage] = Stage.STRUCTURE
    config: ClassVar[type[StepConfig]] = PruneEmbedConfig
    summary: ClassVar[str] = "remove embedding channels, with closed-form repair from calibration images"
    source: ClassVar[str] = (
        "embedding width in NViT (arXiv 2110.04869) and Isomorphic pruning (2407.04616); CORP (2602.05243)"
    )

    def choices(self, shape: VitShape) -> Choices:
        return {"keep": (0.5, 0.625, 0.75, 0.875, 1.0), "importance": ("activation", "magnitude")}

    def unmet_need(self, shape: VitShape) -> str | None:
        if shape.embed_dim < 2 * MULTIPLE:
            return f"fewer than {2 * MULTIPLE} channels"
        return "layers that are factored already" if any(any(block.ranks) for block in shape.blocks) else None

    def is_identity(self, config: Any, shape: VitShape) -> bool:
        return kept_width(shape, config.keep) == shape.embed_dim

    def reshape(self, shape: VitShape, config: Any) -> VitShape:
        return replace(shape, embed_dim=kept_width(shape, config.keep))

    def apply(self, model: VisionTransformer, config: Any, context: Context) -> nn.Module:
        shape = vit_shape(model)
        model.eval()
        width = kept_width(shape, config.keep)
        if width == shape.embed_dim:
            return model
        if context.calibration is None:
            narrow_tokens(model, torch.arange(width))
            return model
        full = copy.deepcopy(model)
        scores = _variances(full, context) if config.importance == "activation" else _reading_weights(full)
        kept, _ = best_units(scores, width)
        narrow_tokens(model, kept)
        if config.compensate:
            _refit(full, model, context)
        return model


def kept_width(shape: VitShape, keep: float) -> int:
    """The nearest multiple of 16; all channels for ``keep`` 1."""
    if keep == 1:
        return shape.embed_dim
    return min(shape.embed_dim, max(MULTIPLE, round(keep * shape.embed_dim / MULTIPLE) * MULTIPLE))


@torch.no_grad()
def _variances(model: VisionTransformer, context: Context) -> torch.Tensor:
    """Variance of each channel over the calibration tokens, each block's share of the whole summed up."""
    stream = TokenStream(model, context, model.embed_dim)
    total = torch.zeros(model.embed_dim, dtype=torch.float64)
    for block in model.blocks:
        stream.advance(block)
        tokens = torch.cat([batch.flatten(0, 1) for batch in stream.batches]).double()
        variance = tokens.var(0)
        total += variance / variance.sum().clamp_min(1e-30)
    return total


def _reading_weights(model: VisionTransformer) -> torch.Tensor:
    """Norm of the weights that read each channel."""
    total = torch.zeros(model.embed_dim, dtype=torch.float64)
    for block in model.blocks:
        for norm, layer in ((block.norm1, block.attn.qkv), (block.norm2, block.mlp.fc1)):
            gain = torch.ones(model.embed_dim) if norm.weight is None else norm.weight.detach()
            total += (layer.weight.detach() * gain).double().square().sum(0)
    return total.sqrt()


@torch.no_grad()
def narrow_tokens(model: VisionTransformer, kept: torch.Tensor) -> None:
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


@torch.no_grad()
def _refit(full: VisionTransformer, narrow: VisionTransformer, context: Context) -> None:
    """Fit every reader of ``narrow`` to what the same reader of ``full`` gives, in the order they run."""
    wide = TokenStream(full, context, max(block.mlp.fc2.in_features for block in full.blocks))
    thin = TokenStream(narrow, context, max(block.mlp.fc2.in_features for block in full.blocks))
    for old, new in zip(full.blocks, narrow.blocks, strict=True):
        new.attn.qkv = _fitted(wide, thin, old, new, "attn", "qkv")
        new.mlp.fc1 = _fitted(wide, thin, old, new, "mlp", "fc1")
        wide.advance(old)
        thin.advance(new)
    _refit_heads(full, narrow, wide, thin)


def _fitted(wide: TokenStream, thin: TokenStream, old: Block, new: Block, branch: str, name: str) -> nn.Linear:
    target, layer = getattr(getattr(old, branch), name), getattr(getattr(new, branch), name)
    moments = Moments.zeros(layer.in_features, layer.out_features)
    with captured_inputs([target]) as was, captured_inputs([layer]) as now:
        for before, after in zip(wide.batches, thin.batches, strict=True):
            check_deadline(thin.context, "calibration")
            old(before)
            new(after)
            moments.add(now[0], target(was[0]))
    return _ridge(layer, moments)


def _ridge(layer: nn.Linear, moments: Moments) -> nn.Linear:
    weight, bias = ridge_fit(moments, intercept=layer.bias is not None)
    return new_linear(layer, weight.to(layer.weight.dtype), None if layer.bias is None else bias.to(layer.weight.dtype))


def _refit_heads(full: VisionTransformer, narrow: VisionTransformer, wide: TokenStream, thin: TokenStream) -> None:
    for (old, name), (new, _) in zip(final_readers(full), final_readers(narrow), strict=True):
        target, layer = getattr(old, name), getattr(new, name)
        moments = Moments.zeros(layer.in_features, layer.out_features)
        with captured_inputs([target]) as was, captured_inputs([layer]) as now:
            for before, after in zip(wide.batches, thin.batches, strict=True):
                full.forward_head(full.norm(before))
                narrow.forward_head(narrow.norm(after))
                moments.add(now[0], target(was[0]))
        setattr(new, name, _ridge(layer, moments))
