"""Pruning of the embedding: fewer channels in every token."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from sousvit.spaces.context import Context
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.shape import VitShape
from sousvit.spaces.technique import Choices, ModelTechnique, Stage, StepConfig

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer
    from torch import nn

MULTIPLE = 16


class PruneEmbedConfig(StepConfig):
    """``keep``: share of the channels that stay, in multiples of 16. ``importance``: by the variance of a channel over
    tokens and blocks, or by the weights that read it. ``compensate``: refit what reads the narrower tokens.
    """

    keep: float = Field(default=0.75, gt=0, le=1)
    importance: Literal["activation", "magnitude"] = "activation"
    compensate: bool = True


class PruneEmbed(ModelTechnique):
    """Removal of the same channels of the residual stream everywhere.

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
        import torch

        from sousvit.spaces.calibration.refit import refit_readers
        from sousvit.spaces.calibration.stream import best_units
        from sousvit.spaces.techniques.pruning.channels import keep_channels, reading_weights, variances

        shape = vit_shape(model)
        model.eval()
        width = kept_width(shape, config.keep)
        if width == shape.embed_dim:
            return model
        if context.calibration is None:
            keep_channels(model, torch.arange(width))
            return model
        full = copy.deepcopy(model)
        scores = variances(full, context) if config.importance == "activation" else reading_weights(full)
        kept, _ = best_units(scores, width)
        keep_channels(model, kept)
        if config.compensate:
            refit_readers(full, model, context)
        return model


def kept_width(shape: VitShape, keep: float) -> int:
    """The nearest multiple of 16; all channels for ``keep`` 1."""
    if keep == 1:
        return shape.embed_dim
    return min(shape.embed_dim, max(MULTIPLE, round(keep * shape.embed_dim / MULTIPLE) * MULTIPLE))
