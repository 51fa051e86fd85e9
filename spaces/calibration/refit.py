"""Layers refitted: ridge regression of what they gave in the original model on what they read in the changed one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from sousvit.spaces.calibration.repair import Moments, ridge_fit
from sousvit.spaces.calibration.stream import TokenStream, captured_inputs, check_deadline, new_linear
from sousvit.spaces.layers.low_rank import writing_layer
from sousvit.spaces.module_shape import final_readers

if TYPE_CHECKING:
    from timm.models.vision_transformer import Block, VisionTransformer

    from sousvit.spaces.context import Context


def fitted(layer: nn.Linear, moments: Moments) -> nn.Linear:
    """``layer`` with the weights that predict y of ``moments`` from x best."""
    weight, bias = ridge_fit(moments, intercept=layer.bias is not None)
    return new_linear(layer, weight.to(layer.weight.dtype), None if layer.bias is None else bias.to(layer.weight.dtype))


@torch.no_grad()
def refit_projection(
    stream: TokenStream, block: Block, original: Callable[[torch.Tensor], torch.Tensor], context: Context
) -> None:
    """Give ``block`` the projection that makes of its new heads' outputs what ``original`` attention gave."""
    projection = block.attn.proj
    layer = writing_layer(projection)  # a factored projection keeps its rank: only its second half is fitted
    moments = Moments.zeros(layer.in_features, layer.out_features)
    with captured_inputs([layer]) as found:
        for tokens in stream.batches:
            check_deadline(context, "converting attention")
            normed = block.norm1(tokens)
            target = original(normed)  # shares the projection: its input is overwritten below
            block.attn(normed)
            moments.add(found[0], target)
    if layer is projection:
        block.attn.proj = fitted(layer, moments)
    else:
        projection.up = fitted(layer, moments)


@torch.no_grad()
def refit_readers(full: VisionTransformer, narrow: VisionTransformer, context: Context) -> None:
    """Fit every reader of ``narrow`` to what the same reader of ``full`` gives, in the order they run.

    Readers are the layers that read normalised tokens: ``qkv`` and ``fc1`` of every block, and the heads.
    """
    wide = TokenStream(full, context, max(block.mlp.fc2.in_features for block in full.blocks))
    thin = TokenStream(narrow, context, max(block.mlp.fc2.in_features for block in full.blocks))
    for old, new in zip(full.blocks, narrow.blocks, strict=True):
        new.attn.qkv = _as_in(wide, thin, old, new, "attn", "qkv")
        new.mlp.fc1 = _as_in(wide, thin, old, new, "mlp", "fc1")
        wide.advance(old)
        thin.advance(new)
    _refit_heads(full, narrow, wide, thin)


def _as_in(wide: TokenStream, thin: TokenStream, old: Block, new: Block, branch: str, name: str) -> nn.Linear:
    """The layer ``branch.name`` of ``new``, fitted to that of ``old``."""
    target, layer = getattr(getattr(old, branch), name), getattr(getattr(new, branch), name)
    moments = Moments.zeros(layer.in_features, layer.out_features)
    with captured_inputs([target]) as was, captured_inputs([layer]) as now:
        for before, after in zip(wide.batches, thin.batches, strict=True):
            check_deadline(thin.context, "calibration")
            old(before)
            new(after)
            moments.add(now[0], target(was[0]))
    return fitted(layer, moments)


def _refit_heads(full: VisionTransformer, narrow: VisionTransformer, wide: TokenStream, thin: TokenStream) -> None:
    for (old, name), (new, _) in zip(final_readers(full), final_readers(narrow), strict=True):
        target, layer = getattr(old, name), getattr(new, name)
        moments = Moments.zeros(layer.in_features, layer.out_features)
        with captured_inputs([target]) as was, captured_inputs([layer]) as now:
            for before, after in zip(wide.batches, thin.batches, strict=True):
                full.forward_head(full.norm(before))
                narrow.forward_head(narrow.norm(after))
                moments.add(now[0], target(was[0]))
        setattr(new, name, fitted(layer, moments))
