"""What pruning MLP units and pruning heads share: rank the units of each block, remove some, repair the reader.

A *unit* is a group of neighbouring input channels of the linear layer that reads it (``fc2`` for MLP units,
``attn.proj`` for heads). Pruning is uniform: every block keeps the same share.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import nn

from sousvit.spaces.calibration import TokenStream, best_units, new_linear, taylor_scores
from sousvit.spaces.compensation import Moments, fold_removed
from sousvit.spaces.shape import BlockShape, VitShape
from sousvit.spaces.technique import Context, ModelTechnique, StepConfig

if TYPE_CHECKING:
    from timm.models.vision_transformer import Block, VisionTransformer


class WidthPruningConfig(StepConfig):
    """``keep`` is the share of units that stay.

    ``importance`` ranks the units: ``activation`` by the energy that a unit sends to its block's output, ``taylor`` by
    the first-order effect on the loss, ``magnitude`` by weights alone. ``compensate`` repairs the reading layer.
    """

    keep: float = Field(default=0.5, gt=0, le=1)
    importance: Literal["activation", "taylor", "magnitude"] = "activation"
    compensate: bool = True


class WidthPruning(ModelTechnique):
    """Removes units of every block physically."""

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
    def reader(self, block: Block) -> nn.Linear:
        """The layer whose inputs are the units."""

    @abstractmethod
    def branch(self, block: Block, tokens: torch.Tensor) -> torch.Tensor:
        """The part of the block up to the reader, for tokens ``[B, N, D]`` that enter the block."""

    @abstractmethod
    def weight_norms(self, block: Block) -> torch.Tensor:
        """Norm of the weights that write each unit, ``[units]``."""

    @abstractmethod
    def narrow(self, block: Block, kept: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Keep units ``kept`` only; the reader gets ``weight [outputs, kept channels]`` and ``bias``."""

    def reshape(self, shape: VitShape, config: Any) -> VitShape:
        """See :class:`ModelTechnique`."""
        return shape.with_blocks(self.resized(block, self.num_kept(block, config.keep)) for block in shape.blocks)

    def is_identity(self, config: Any, shape: VitShape) -> bool:
        """See :class:`Technique`."""
        return self.reshape(shape, config) == shape

    def apply(self, model: VisionTransformer, config: Any, context: Context) -> nn.Module:
        """See :class:`ModelTechnique`."""
        shape = VitShape.of(model)
        if self.is_identity(config, shape):
            return model.eval()
        model.eval()
        if context.calibration is None:
            self._cut_skeleton(model, shape, config)
        else:
            self._cut_calibrated(model, shape, config, context)
        return model

    def _cut_skeleton(self, model: VisionTransformer, shape: VitShape, config: Any) -> None:
        for block, block_shape in zip(model.blocks, shape.blocks, strict=True):
            kept = torch.arange(self.num_kept(block_shape, config.keep))
            reader = self.reader(block)
            self.narrow(block, kept, reader.weight[:, self._channels(kept, block, block_shape)], reader.bias)

    def _cut_calibrated(self, model: VisionTransformer, shape: VitShape, config: Any, context: Context) -> None:
        units = [self.num_units(block) for block in shape.blocks]
        taylor = None
        if config.importance == "taylor":
            taylor = taylor_scores(model, [self.reader(block) for block in model.blocks], units, context)
        stream = TokenStream(model, context, max(self.reader(block).in_features for block in model.blocks))
        for index, (block, block_shape) in enumerate(zip(model.blocks, shape.blocks, strict=True)):
            reader = self.reader(block)
            moments = stream.moments(partial(self.branch, block), reader)
            scores = self._scores(block, units[index], moments, config.importance) if taylor is None else taylor[index]
            kept, removed = best_units(scores, self.num_kept(block_shape, config.keep))
            kept_channels = self._channels(kept, block, block_shape)
            if config.compensate:
                gone = self._channels(removed, block, block_shape)
                weight, bias = fold_removed(reader.weight, reader.bias, kept_channels, gone, moments)
            else:
                weight, bias = reader.weight[:, kept_channels], reader.bias
            self.narrow(block, kept, weight, bias)
            stream.advance(block)

    def _channels(self, units: torch.Tensor, block: Block, shape: BlockShape) -> torch.Tensor:
        """Input channels of the reader that belong to ``units``."""
        width = self.reader(block).in_features // self.num_units(shape)
        return (units[:, None] * width + torch.arange(width)).flatten()

    @torch.no_grad()
    def _scores(self, block: Block, units: int, moments: Moments, importance: str) -> torch.Tensor:
        """Importance ``[units]`` without gradients."""
        weight = self.reader(block).weight.double().unflatten(1, (units, -1))  # [outputs, units, channels]
        if importance == "magnitude":
            return weight.square().sum((0, 2)).sqrt() * self.weight_norms(block).double()
        channels = weight.shape[2]
        # The mean of a unit is folded into the bias, so only its variation counts where there is a bias.
        centred = self.reader(block).bias is not None
        energy = moments.covariance() if centred else moments.xx / moments.count
        blocks = energy.unflatten(0, (units, channels)).unflatten(2, (units, channels))
        own = torch.stack([blocks[unit, :, unit] for unit in range(units)])  # [units, channels, channels]
        return torch.einsum("ouc,ucd,oud->u", weight, own, weight)


def replace_linear(module: nn.Module, name: str, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    """Give ``module.name`` these weights and the sizes that go with them."""
    setattr(module, name, new_linear(getattr(module, name), weight, bias))


def keep_outputs(module: nn.Module, name: str, rows: torch.Tensor) -> None:
    """Keep only ``rows`` of the outputs of the linear layer ``module.name``."""
    linear = getattr(module, name)
    replace_linear(module, name, linear.weight[rows], None if linear.bias is None else linear.bias[rows])
