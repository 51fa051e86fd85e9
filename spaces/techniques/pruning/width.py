"""What pruning MLP units and pruning heads share: rank the units of each block, remove some, repair the reader.

A *unit* is a group of neighbouring input channels of the linear layer that reads it (``fc2`` for MLP units,
``attn.proj`` for heads). Every block keeps the same share (uniform), or units of all blocks compete for the same
number of places (global): units of one kind are isomorphic, so their scores can be compared across blocks
(Isomorphic pruning, Fang et al., arXiv 2407.04616).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from sousvit.spaces.calibration.gates import learned_gates
from sousvit.spaces.calibration.repair import Moments, fold_removed
from sousvit.spaces.calibration.stream import TokenStream, best_units, new_linear, taylor_scores
from sousvit.spaces.context import Context
from sousvit.spaces.layers.low_rank import LowRankLinear, reading_layer, writing_layer
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.shape import BlockShape, VitShape
from sousvit.spaces.technique import ModelTechnique, StepConfig

if TYPE_CHECKING:
    from timm.models.vision_transformer import Block, VisionTransformer


class WidthPruningConfig(StepConfig):
    """``keep`` is the share of units that stay.

    ``importance`` ranks the units: ``activation`` by the energy that a unit adds to the tokens, ``taylor`` by
    the first-order effect on the loss, ``gates`` by gates trained for a moment, ``magnitude`` by weights alone.
    ``allocation``: every block alike, or where units are worth most. ``compensate`` repairs the reading layer.
    """

    keep: float = Field(default=0.5, gt=0, le=1)
    importance: Literal["activation", "taylor", "gates", "magnitude"] = "activation"
    allocation: Literal["uniform", "global"] = "uniform"
    compensate: bool = True


class WidthPruning(ModelTechnique):
    """Removes units of every block physically.

    Class attributes:
        multiple: units are removed this many at a time.
    """

    multiple: ClassVar[int] = 1

    @abstractmethod
    def num_units(self, block: BlockShape) -> int:
        """Units of a block."""

    @abstractmethod
    def num_kept(self, block: BlockShape, keep: float) -> int:
        """Units that stay, at least 1."""

    @abstractmethod
    def resized(self, block: BlockShape, units: int) -> BlockShape:
        """The block's shape with ``units`` units."""

    @abstractmethod
    def output(self, block: Block) -> tuple[nn.Linear | LowRankLinear, nn.Module]:
        """The (factored) layer that reads the units, and the layer scale that multiplies what it gives."""

    def reader(self, block: Block) -> nn.Linear:
        """The linear layer whose inputs are the units."""
        return reading_layer(self.output(block)[0])

    @abstractmethod
    def branch(self, block: Block, tokens: torch.Tensor) -> torch.Tensor:
        """The part of the block up to the reader, for tokens ``[B, N, D]`` that enter the block."""

    @abstractmethod
    def weight_norms(self, block: Block) -> torch.Tensor:
        """Norm of the weights that write each unit, ``[units]``."""

    @abstractmethod
    def narrow(self, block: Block, kept: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Keep units ``kept`` only; the reader gets ``weight [outputs, kept channels]`` and ``bias``."""

    def shapes_by_data(self, config: Any) -> bool:
        return bool(config.allocation == "global")

    def nested(self, config: Any) -> WidthPruningConfig | None:
        """Units are in order already, and every block keeps the same share."""
        uniform = config.allocation == "uniform"
        return WidthPruningConfig(keep=config.keep, compensate=config.compensate) if uniform else None

    def reshape(self, shape: VitShape, config: Any) -> VitShape:
        return shape.with_blocks(self.resized(block, self.num_kept(block, config.keep)) for block in shape.blocks)

    def is_identity(self, config: Any, shape: VitShape) -> bool:
        return self.reshape(shape, config) == shape

    def apply(self, model: VisionTransformer, config: Any, context: Context) -> nn.Module:
        shape = vit_shape(model)
        if self.is_identity(config, shape):
            return model.eval()
        model.eval()
        counts = [self.num_kept(block, config.keep) for block in shape.blocks]
        if context.calibration is None:
            self._cut_skeleton(model, shape, context.decided(self.name, counts))
        else:
            self._cut_calibrated(model, shape, config, context, counts)
        return model

    def ranked(self, model: VisionTransformer, context: Context) -> list[list[int]]:
        """Units of every block in falling order of importance by activation, in the uncut model."""
        shape = vit_shape(model)
        stream = TokenStream(model, context, max(self.reader(block).in_features for block in model.blocks))
        orders = []
        for block, block_shape in zip(model.blocks, shape.blocks, strict=True):
            moments = stream.moments(partial(self.branch, block), self.reader(block))
            scores = self._scores(block, self.num_units(block_shape), moments, "activation")
            orders.append(torch.argsort(scores, descending=True, stable=True).tolist())
            stream.advance(block)
        return orders

    def reorder(self, model: VisionTransformer, orders: Sequence[Sequence[int]]) -> None:
        """Put the units of every block in another order; the model computes the same."""
        for block, shape, order in zip(model.blocks, vit_shape(model).blocks, orders, strict=True):
            units, reader = torch.tensor(order), self.reader(block)
            self.narrow(block, units, reader.weight[:, self._channels(units, block, shape)], reader.bias)

    def _cut_skeleton(self, model: VisionTransformer, shape: VitShape, counts: Sequence[int]) -> None:
        for block, block_shape, count in zip(model.blocks, shape.blocks, counts, strict=True):
            kept = torch.arange(count)
            reader = self.reader(block)
            self.narrow(block, kept, reader.weight[:, self._channels(kept, block, block_shape)], reader.bias)

    def _cut_calibrated(
        self, model: VisionTransformer, shape: VitShape, config: Any, context: Context, counts: list[int]
    ) -> None:
        scores = self._scores_at_once(model, shape, config, context)
        if config.allocation == "global":
            assert scores is not None
            counts = context.decide(self.name, allocated(scores, counts, self.multiple))
        stream = TokenStream(model, context, max(self.reader(block).in_features for block in model.blocks))
        for index, (block, block_shape) in enumerate(zip(model.blocks, shape.blocks, strict=True)):
            reader = self.reader(block)
            moments = stream.moments(partial(self.branch, block), reader)
            units = self.num_units(block_shape)
            own = self._scores(block, units, moments, config.importance) if scores is None else scores[index]
            kept, removed = best_units(own, counts[index])
            kept_channels = self._channels(kept, block, block_shape)
            if config.compensate:
                gone = self._channels(removed, block, block_shape)
                weight, bias = fold_removed(reader.weight, reader.bias, kept_channels, gone, moments)
            else:
                weight, bias = reader.weight[:, kept_channels], reader.bias
            self.narrow(block, kept, weight, bias)
            stream.advance(block)

    def _scores_at_once(
        self, model: VisionTransformer, shape: VitShape, config: Any, context: Context
    ) -> list[torch.Tensor] | None:
        """Scores of all blocks in the unpruned model, where they are needed together; None: block by block is fine."""
        units = [self.num_units(block) for block in shape.blocks]
        readers = [self.reader(block) for block in model.blocks]
        if context.nested is not None and config.allocation == "uniform":
            return [-torch.arange(count) for count in units]
        if config.importance == "taylor":
            return taylor_scores(model, readers, units, context)
        if config.importance == "gates":
            return learned_gates(model, readers, units, context)
        if config.allocation == "uniform":
            return None
        stream = TokenStream(model, context, max(reader.in_features for reader in readers))
        scores = []
        for block, count in zip(model.blocks, units, strict=True):
            moments = stream.moments(partial(self.branch, block), self.reader(block))
            scores.append(self._scores(block, count, moments, config.importance))
            stream.advance(block)
        return scores

    def _channels(self, units: torch.Tensor, block: Block, shape: BlockShape) -> torch.Tensor:
        """Input channels of the reader that belong to ``units``."""
        width = self.reader(block).in_features // self.num_units(shape)
        return (units[:, None] * width + torch.arange(width)).flatten()

    @torch.no_grad()
    def _scores(self, block: Block, units: int, moments: Moments, importance: str) -> torch.Tensor:
        """Importance ``[units]`` without gradients."""
        layer, scale = self.output(block)
        gamma = getattr(scale, "gamma", torch.ones(1))
        weight = (gamma[:, None] * layer.weight).double().unflatten(1, (units, -1))  # [outputs, units, channels]
        if importance == "magnitude":
            return weight.square().sum((0, 2)).sqrt() * self.weight_norms(block).double()
        channels = weight.shape[2]
        # The mean of a unit is folded into the bias, so only its variation counts where there is a bias.
        centred = self.reader(block).bias is not None
        energy = moments.covariance() if centred else moments.xx / moments.count
        blocks = energy.unflatten(0, (units, channels)).unflatten(2, (units, channels))
        own = torch.stack([blocks[unit, :, unit] for unit in range(units)])  # [units, channels, channels]
        return torch.einsum("ouc,ucd,oud->u", weight, own, weight)


def allocated(scores: Sequence[torch.Tensor], counts: Sequence[int], multiple: int) -> list[int]:
    """How many units each block keeps when all compete for ``sum(counts)`` places.

    Args:
        scores: importance ``[units]`` of each block.
        counts: units that each block would keep alone.
        multiple: units enter ``multiple`` at a time, best first; every block keeps one such step at least.
    """
    steps = [
        (float(score.sort(descending=True).values[start : start + multiple].sum()), block)
        for block, score in enumerate(scores)
        for start in range(multiple, len(score) - multiple + 1, multiple)
    ]
    kept = [multiple] * len(scores)
    places = sum(count // multiple for count in counts) - len(scores)
    for _, block in sorted(steps, key=lambda step: -step[0])[:places]:
        kept[block] += multiple
    return kept


def replace_linear(module: nn.Module, name: str, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    """Give ``module.name`` these weights and the sizes that go with them."""
    setattr(module, name, new_linear(getattr(module, name), weight, bias))


def keep_outputs(module: nn.Module, name: str, rows: torch.Tensor) -> None:
    """Keep only ``rows`` of the outputs of the linear (or factored) layer ``module.name``."""
    layer = getattr(module, name)
    linear = writing_layer(layer)
    owner, attribute = (module, name) if linear is layer else (layer, "up")
    replace_linear(owner, attribute, linear.weight[rows], None if linear.bias is None else linear.bias[rows])


def replace_reader(module: nn.Module, name: str, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    """Give the layer ``module.name``, or the thin one of it that reads, these weights."""
    layer = getattr(module, name)
    if reading_layer(layer) is layer:
        replace_linear(module, name, weight, bias)
    else:
        replace_linear(layer, "down", weight, None)
