"""Low-rank factorisation: linear layers as products of two thin ones."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from sousvit.spaces.context import Context
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.shape import BlockShape, VitShape
from sousvit.spaces.technique import Choices, ModelTechnique, Stage, StepConfig

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer
    from torch import nn

#: Places of the four layers in :attr:`BlockShape.ranks`, by what a search may choose.
PARTS = {"all": (0, 1, 2, 3), "attention": (0, 1), "mlp": (2, 3)}
MULTIPLE = 8


class LowRankConfig(StepConfig):
    """``keep``: share of the weights that stay. ``layers``: which linear layers. ``method``: plain SVD, or whitened by
    the layers' inputs. ``allocation``: the same rank in every block, or ranks moved to the blocks whose outputs need
    them, with the same sum.
    """

    keep: float = Field(default=0.6, gt=0, le=1)
    layers: Literal["all", "attention", "mlp"] = "mlp"
    method: Literal["svd", "whitened"] = "whitened"
    allocation: Literal["uniform", "sensitivity"] = "uniform"


class LowRank(ModelTechnique):
    """Factored linear layers, block by block; every block reads what the factored earlier ones give."""

    name: ClassVar[str] = "low_rank"
    stage: ClassVar[Stage] = Stage.STRUCTURE
    config: ClassVar[type[StepConfig]] = LowRankConfig
    summary: ClassVar[str] = "factor linear layers by (activation-aware) SVD; before or after pruning"
    source: ClassVar[str] = "SVD-LLM (arXiv 2403.07378); sensitivity by whitened energies as in FLAR-SVD"
    rank: ClassVar[int] = 1
    movable_past: ClassVar[frozenset[str]] = frozenset({"prune_heads", "prune_mlp"})

    def choices(self, shape: VitShape) -> Choices:
        methods, allocations = ("whitened", "svd"), ("uniform", "sensitivity")
        return {
            "keep": (0.4, 0.6, 0.8, 1.0), "layers": ("all", "attention", "mlp"), "method": methods,
            "allocation": allocations,
        }  # fmt: skip

    def unmet_need(self, shape: VitShape) -> str | None:
        return "layers that are factored already" if any(any(block.ranks) for block in shape.blocks) else None

    def shapes_by_data(self, config: Any) -> bool:
        return bool(config.allocation == "sensitivity")

    def is_identity(self, config: Any, shape: VitShape) -> bool:
        return self.reshape(shape, config) == shape

    def reshape(self, shape: VitShape, config: Any) -> VitShape:
        if config.keep == 1:
            return shape
        return shape.with_blocks(
            replace(block, ranks=uniform_ranks(block, shape.embed_dim, config)) for block in shape.blocks
        )

    def apply(self, model: VisionTransformer, config: Any, context: Context) -> nn.Module:
        from sousvit.spaces.calibration.stream import TokenStream
        from sousvit.spaces.techniques.pruning.ranks import factor_block, layers_of, sensitive_ranks

        shape = vit_shape(model)
        target = self.reshape(shape, config)
        if target == shape:
            return model.eval()
        model.eval()
        ranks = [block.ranks for block in target.blocks]
        if context.calibration is None:
            ranks = context.decided(self.name, ranks)
            for block, block_ranks in zip(model.blocks, ranks, strict=True):
                factor_block(block, block_ranks, [None] * 4)
            return model
        if config.allocation == "sensitivity":
            ranks = context.decide(self.name, sensitive_ranks(model, config.method, context, ranks))
        stream = TokenStream(model, context, max(block.mlp.fc2.in_features for block in model.blocks))
        for block, block_ranks in zip(model.blocks, ranks, strict=True):
            moments = stream.moments(block, layers_of(block)) if config.method == "whitened" else [None] * 4
            factor_block(block, block_ranks, moments)
            stream.through(block)
        return model


def uniform_ranks(block: BlockShape, embed_dim: int, config: LowRankConfig) -> tuple[int, int, int, int]:
    """Rank of each layer, 0 where factoring saves nothing."""
    sizes = (
        (embed_dim, 3 * block.attn_dim),
        (block.attn_dim, embed_dim),
        (embed_dim, block.mlp),
        (block.mlp, embed_dim),
    )
    chosen = PARTS[config.layers]
    qkv, proj, fc1, fc2 = (break_even(*size, config.keep) if place in chosen else 0 for place, size in enumerate(sizes))
    return qkv, proj, fc1, fc2


def break_even(inputs: int, outputs: int, keep: float) -> int:
    """The rank with a share ``keep`` of a full layer's weights, in steps of 8; 0 where it saves none."""
    most = inputs * outputs / (inputs + outputs)
    rank = max(1, round(keep * most / MULTIPLE)) * MULTIPLE
    return rank if rank * (inputs + outputs) < inputs * outputs else 0
