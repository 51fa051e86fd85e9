"""Fewer blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from sousvit.errors import UserError
from sousvit.spaces.calibration.repair import Moments, ridge_fit
from sousvit.spaces.calibration.stream import (
    TokenStream,
    calibration_images,
    captured_inputs,
    check_deadline,
    embed,
    image_batches,
)
from sousvit.spaces.context import Context
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.shape import VitShape
from sousvit.spaces.tasks.task import task_of
from sousvit.spaces.technique import Choices, ModelTechnique, Stage, StepConfig

if TYPE_CHECKING:
    from timm.models.vision_transformer import Block, VisionTransformer

#: Images that choose the blocks; the choice is stable long before the repair is.
CHOOSING_IMAGES = 128
#: A layer scale below this share of its largest value cannot carry a correction.
MIN_LAYER_SCALE = 1e-6


class PruneDepthConfig(StepConfig):
    """``drop`` blocks are removed; ``compensate`` lets the block before a gap stand in for what is missing."""

    drop: int = Field(default=1, ge=0)
    compensate: bool = True


class PruneDepth(ModelTechnique):
    """Removes the blocks whose absence changes the predictions least, one after the other.

    The residual update of a removed run of blocks is regressed on the MLP units of the kept block before it and
    folded into that block's ``fc2``; a run at the very front has no block before it and is not repaired.
    """

    name: ClassVar[str] = "prune_depth"
    stage: ClassVar[Stage] = Stage.STRUCTURE
    config: ClassVar[type[StepConfig]] = PruneDepthConfig
    summary: ClassVar[str] = "remove the least needed blocks, with closed-form repair from calibration images"
    needs_equal_blocks: ClassVar[bool] = True
    source: ClassVar[str] = "block removal as in ShortGPT (arXiv 2403.03853), judged by logits; CORP (2602.05243)"

    def choices(self, shape: VitShape) -> Choices:
        """None to three quarters of the blocks."""
        most = min(shape.depth - 1, shape.depth * 3 // 4)
        step = max(1, shape.depth // 8)
        return {"drop": tuple(range(0, most + 1, step))}

    def unmet_need(self, shape: VitShape) -> str | None:
        if shape.depth < 2:
            return "only one block"
        if any(any(block.ranks) for block in shape.blocks):
            return "layers that are factored already"
        return None if len(set(shape.blocks)) == 1 else "blocks of different widths"

    def is_identity(self, config: Any, shape: VitShape) -> bool:
        return bool(config.drop == 0)

    def nested(self, config: Any) -> Any:
        """Blocks go in the order that the elastic base was trained for."""
        return config

    def reshape(self, shape: VitShape, config: Any) -> VitShape:
        if config.drop >= shape.depth:
            raise UserError("a model keeps at least one block", f"drop {config.drop} of {shape.depth}", "drop fewer")
        return replace(shape, blocks=shape.blocks[: shape.depth - config.drop])

    def apply(self, model: VisionTransformer, config: Any, context: Context) -> nn.Module:
        shape = vit_shape(model)
        self.reshape(shape, config)
        model.eval()
        if config.drop == 0:
            return model
        if context.nested is not None:
            kept = remaining(shape.depth, context.nested["blocks"][: config.drop])
        elif context.calibration is None:
            kept = list(range(shape.depth - config.drop))
        else:
            kept = remaining(shape.depth, least_needed(model, config.drop, context))
        if context.calibration is not None and config.compensate:
            repair_gaps(model, kept, context)
        model.blocks = nn.Sequential(*(model.blocks[index] for index in kept))
        model.feature_info = model.feature_info[: len(kept)]
        return model


def remaining(depth: int, dropped: Sequence[int]) -> list[int]:
    """Indices of the blocks that stay, in order."""
    return [index for index in range(depth) if index not in dropped]


@torch.no_grad()
def least_needed(model: VisionTransformer, drop: int, context: Context) -> list[int]:
    """Indices of ``drop`` blocks in the order in which they go: each time the one that changes the predictions least.

    The change is the task's divergence of the predictions without the block from the full model's.
    """
    images = calibration_images(context, CHOOSING_IMAGES)
    tokens = torch.cat([embed(model, batch) for batch, _ in image_batches(images, context)])
    blocks = list(model.blocks)
    target, task = _predictions(model, blocks, tokens), task_of(model)
    kept, dropped = list(range(len(blocks))), []
    for _ in range(drop):
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
    return found


@torch.no_grad()
def repair_gaps(model: VisionTransformer, kept: Sequence[int], context: Context) -> None:
    """Fold the residual update of every removed run into ``fc2`` of the kept block before it."""
    blocks = list(model.blocks)
    stream = TokenStream(model, context, blocks[0].mlp.fc2.in_features)
    ends = [*kept[1:], len(blocks)]
    for index, end in zip(kept, ends, strict=True):
        gap = blocks[index + 1 : end]
        if gap:
            _fold_gap(blocks[index], _gap_moments(stream, blocks[index], gap, context))
        stream.advance(blocks[index])


def _gap_moments(stream: TokenStream, block: Block, gap: Sequence[Block], context: Context) -> Moments:
    """Moments of ``block``'s MLP units (x) and the update that the blocks of ``gap`` would make after it (y)."""
    layer = block.mlp.fc2
    moments = Moments.zeros(layer.in_features, layer.out_features)
    with captured_inputs([layer]) as found:
        for tokens in stream.batches:
            check_deadline(context, "calibration")
            start = end = block(tokens)
            for removed in gap:
                end = removed(end)
            moments.add(found[0], end - start)
    return moments


def _fold_gap(block: Block, moments: Moments) -> None:
    """Add the predicted update to ``fc2``, whose output a layer scale multiplies before it is added to the tokens."""
    layer = block.mlp.fc2
    slope, offset = ridge_fit(moments, intercept=layer.bias is not None)
    gamma = getattr(block.ls2, "gamma", torch.ones(layer.out_features)).double()
    inverse = torch.where(gamma.abs() > MIN_LAYER_SCALE * gamma.abs().max(), 1 / gamma, torch.zeros_like(gamma))
    layer.weight += (slope * inverse[:, None]).to(layer.weight.dtype)
    if layer.bias is not None:
        layer.bias += (offset * inverse).to(layer.bias.dtype)
