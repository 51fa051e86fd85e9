"""Blocks: which ones the predictions need least, and the repair of the gaps that they leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from sousvit.spaces.calibration.repair import Moments, ridge_fit
from sousvit.spaces.calibration.stream import (
    TokenStream,
    calibrating,
    captured_inputs,
    check_deadline,
    embed,
    enough_images,
    image_batches,
)
from sousvit.spaces.tasks.task import task_of

if TYPE_CHECKING:
    from timm.models.vision_transformer import Block, VisionTransformer

    from sousvit.spaces.context import Context

#: Images that choose the blocks, at least of large ones; the choice is stable long before the repair is.
CHOOSING_IMAGES, LEAST_CHOOSING = 128, 32
#: A layer scale below this share of its largest value cannot carry a correction.
MIN_LAYER_SCALE = 1e-6


def least_needed(model: VisionTransformer, drop: int, context: Context) -> list[int]:
    """Indices of ``drop`` blocks in the order in which they go: each time the one that changes the predictions least.

    The change is the task's divergence of the predictions without the block from the full model's. The order is kept,
    and a longer one goes on from it.
    """
    store, name = context.statistics, "order of blocks"
    known = None if store is None else store.read(name, model, context)
    order = [] if known is None else known[0].tolist()
    if len(order) < drop:
        order = _longer_order(model, order, drop, context)
        if store is not None:
            store.write(name, model, context, [torch.tensor(order)])
    return order[:drop]


def _longer_order(model: VisionTransformer, order: Sequence[int], drop: int, context: Context) -> list[int]:
    images, blocks, task = enough_images(context, CHOOSING_IMAGES, LEAST_CHOOSING), list(model.blocks), task_of(model)
    dropped, kept = list(order), [index for index in range(len(blocks)) if index not in order]
    with calibrating():
        tokens = torch.cat([embed(model, batch) for batch, _ in image_batches(images, context)])
        target = _predictions(model, blocks, tokens)
        while len(dropped) < drop:
            harms = []
            before = tokens  # enters the block at the position
            for position in range(len(kept)):
                check_deadline(context, "choosing blocks")
                rest = [blocks[index] for index in kept[position + 1 :]]
                harms.append(float(task.divergence(_predictions(model, rest, before), target)))
                before = blocks[kept[position]](before)
            dropped.append(kept.pop(min(range(len(kept)), key=harms.__getitem__)))
    return dropped


def _predictions(model: VisionTransformer, blocks: Sequence[Block], tokens: torch.Tensor) -> torch.Tensor:
    """What the model's head makes of tokens ``[B, N, D]`` sent through ``blocks``."""
    for block in blocks:
        tokens = block(tokens)
    found: torch.Tensor = model.forward_head(model.norm(tokens))
    return found.float()


def repair_gaps(model: VisionTransformer, kept: Sequence[int], context: Context) -> None:
    """Fold the residual update of every removed run into ``fc2`` of the kept block before it."""
    blocks = list(model.blocks)
    stream = TokenStream(model, context, blocks[0].mlp.fc2.in_features)
    ends = [*kept[1:], len(blocks)]
    for index, end in zip(kept, ends, strict=True):
        gap = blocks[index + 1 : end]
        if gap:
            _fold_gap(blocks[index], _gap_moments(stream, blocks[index], gap, context))
        stream.through(blocks[index])


def _gap_moments(stream: TokenStream, block: Block, gap: Sequence[Block], context: Context) -> Moments:
    """Moments of ``block``'s MLP units (x) and the update that the blocks of ``gap`` would make after it (y)."""
    layer = block.mlp.fc2
    moments = Moments.zeros(layer.in_features, layer.out_features)
    with calibrating(), captured_inputs([layer]) as found:
        for tokens in stream.batches:
            check_deadline(context, "calibration")
            start = end = block(tokens)
            for removed in gap:
                end = removed(end)
            moments.add(found[0], end - start)
    return moments


@torch.no_grad()
def _fold_gap(block: Block, moments: Moments) -> None:
    """Add the predicted update to ``fc2``, whose output a layer scale multiplies before it is added to the tokens."""
    layer = block.mlp.fc2
    slope, offset = ridge_fit(moments, intercept=layer.bias is not None)
    gamma = getattr(block.ls2, "gamma", torch.ones(layer.out_features)).double()
    inverse = torch.where(gamma.abs() > MIN_LAYER_SCALE * gamma.abs().max(), 1 / gamma, torch.zeros_like(gamma))
    layer.weight += (slope * inverse[:, None]).to(layer.weight.dtype)
    if layer.bias is not None:
        layer.bias += (offset * inverse).to(layer.bias.dtype)
