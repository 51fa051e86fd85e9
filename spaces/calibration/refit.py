"""Layers refitted: ridge regression of what they gave in the original model on what they read in the changed one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from sousvit.spaces.calibration.halfway import Known, Recorder, stood_in
from sousvit.spaces.calibration.repair import Moments, ridge_fit
from sousvit.spaces.calibration.stream import (
    TokenStream,
    calibrating,
    captured_inputs,
    captured_outputs,
    check_deadline,
    new_linear,
)
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
    with calibrating(), captured_inputs([layer]) as found:
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


def refit_readers(full: VisionTransformer, narrow: VisionTransformer, context: Context) -> None:
    """Fit every reader of ``narrow`` to what the same reader of ``full`` gives, in the order they run.

    Readers are the layers that read normalised tokens: ``qkv`` and ``fc1`` of every block, and the heads.
    """
    inputs = narrow.embed_dim  # of every reader
    wide, thin = TokenStream(full, context, inputs), TokenStream(narrow, context, inputs)
    for old, new in zip(full.blocks, narrow.blocks, strict=True):
        _refit_block(wide, thin, old, new)
    _refit_heads(full, narrow, wide, thin)


def _refit_block(wide: TokenStream, thin: TokenStream, old: Block, new: Block) -> None:
    """Fit ``qkv`` and ``fc1`` of ``new``, and move both streams behind their blocks."""
    queries = Moments.zeros(new.attn.qkv.in_features, new.attn.qkv.out_features)
    hidden = Moments.zeros(new.mlp.fc1.in_features, new.mlp.fc1.out_features)
    wanted: list[torch.Tensor] = []
    with calibrating(), captured_outputs([old.attn.qkv, old.mlp.fc1]) as given:
        for index, (before, after) in enumerate(zip(wide.batches, thin.batches, strict=True)):
            check_deadline(thin.context, "calibration")
            wide.batches[index] = old(before)
            queries.add(new.norm1(after), given[0])
            wanted.append(given[1])
    new.attn.qkv = fitted(new.attn.qkv, queries)
    attended: list[torch.Tensor] = []
    entered: list[torch.Tensor] = []
    with calibrating(), stood_in(new.mlp, "fc2", Recorder([], new)), captured_inputs([new.mlp.fc1]) as found:
        for after, target in zip(thin.batches, wanted, strict=True):
            check_deadline(thin.context, "calibration")
            attended.append(new.attn(new.norm1(after)))
            with stood_in(new, "attn", Known(attended[-1])):
                new(after)
            entered.append(found[0])
            hidden.add(found[0], target)
    new.mlp.fc1 = fitted(new.mlp.fc1, hidden)
    with calibrating():
        for index, after in enumerate(thin.batches):
            with stood_in(new, "attn", Known(attended[index])), stood_in(new, "mlp", Known(new.mlp(entered[index]))):
                thin.batches[index] = new(after)


def _refit_heads(full: VisionTransformer, narrow: VisionTransformer, wide: TokenStream, thin: TokenStream) -> None:
    for (old, name), (new, _) in zip(final_readers(full), final_readers(narrow), strict=True):
        target, layer = getattr(old, name), getattr(new, name)
        moments = Moments.zeros(layer.in_features, layer.out_features)
        with calibrating(), captured_outputs([target]) as was, captured_inputs([layer]) as now:
            for before, after in zip(wide.batches, thin.batches, strict=True):
                full.forward_head(full.norm(before))
                narrow.forward_head(narrow.norm(after))
                moments.add(now[0], was[0])
        setattr(new, name, fitted(layer, moments))
