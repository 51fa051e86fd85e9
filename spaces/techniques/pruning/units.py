"""Units of a block that can be removed: attention heads, and hidden units of the MLP.

A *unit* is a group of neighbouring input channels of the linear layer that reads it (``attn.proj`` for heads, ``fc2``
for MLP units). Blocks are changed in order, and each reads what the changed ones before it give.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import nn

from sousvit.spaces.calibration.gates import learned_gates
from sousvit.spaces.calibration.halfway import Halfway
from sousvit.spaces.calibration.kept import kept
from sousvit.spaces.calibration.repair import Moments, fold_removed
from sousvit.spaces.calibration.stream import TokenStream, best_units, new_linear, taylor_scores
from sousvit.spaces.layers.low_rank import LowRankLinear, reading_layer, writing_layer
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.shape import BlockShape

if TYPE_CHECKING:
    from timm.models.vision_transformer import Block, VisionTransformer

    from sousvit.spaces.context import Context


class Units(ABC):
    """One kind of unit in the blocks of a plain Vision Transformer; it has no state.

    Class attributes:
        part: of a block, whose last layer reads the units.
    """

    part: ClassVar[Literal["attn", "mlp"]]

    @abstractmethod
    def count(self, shape: BlockShape) -> int:
        """Units of a block."""

    @abstractmethod
    def output(self, block: Block) -> tuple[nn.Linear | LowRankLinear, nn.Module]:
        """The (factored) layer that reads the units, and the layer scale that multiplies what it gives."""

    @abstractmethod
    def weight_norms(self, block: Block) -> torch.Tensor:
        """Norm of the weights that write each unit, ``[units]``."""

    @abstractmethod
    def narrow(self, block: Block, kept: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Keep units ``kept`` only; the reader gets ``weight [outputs, kept channels]`` and ``bias``."""

    def reader(self, block: Block) -> nn.Linear:
        """The linear layer whose inputs are the units."""
        return reading_layer(self.output(block)[0])

    def ranked(self, model: VisionTransformer, context: Context) -> list[list[int]]:
        """Units of every block in falling order of importance by activation, in the uncut model."""
        stream = TokenStream(model, context, max(self.reader(block).in_features for block in model.blocks))
        orders = []
        for block, shape in zip(model.blocks, vit_shape(model).blocks, strict=True):
            (moments,) = stream.through(block, [self.reader(block)])
            scores = self._scores(block, self.count(shape), moments, "activation")
            orders.append(torch.argsort(scores, descending=True, stable=True).tolist())
        return orders

    def reorder(self, model: VisionTransformer, orders: Sequence[Sequence[int]]) -> None:
        """Put the units of every block in another order; the model computes the same."""
        for block, shape, order in zip(model.blocks, vit_shape(model).blocks, orders, strict=True):
            self._keep(block, torch.tensor(order), shape)

    def keep_first(self, model: VisionTransformer, counts: Sequence[int]) -> None:
        """Keep the first ``counts[i]`` units of block i, as they are."""
        for block, shape, count in zip(model.blocks, vit_shape(model).blocks, counts, strict=True):
            self._keep(block, torch.arange(count), shape)

    def keep_best(
        self,
        model: VisionTransformer,
        counts: Sequence[int],
        scores: Sequence[torch.Tensor] | None,
        importance: str,
        compensate: bool,
        context: Context,
    ) -> None:
        """Keep the ``counts[i]`` most important units of block i.

        Args:
            model: changed in place.
            counts: units that stay, by block.
            scores: of all blocks in the uncut model; None to score each block where its turn comes.
            importance: see :class:`~sousvit.spaces.techniques.pruning.width.WidthPruningConfig`.
            compensate: whether readers predict what the removed units gave.
            context: with calibration images.
        """
        stream = TokenStream(model, context, max(self.reader(block).in_features for block in model.blocks))
        for index, (block, shape) in enumerate(zip(model.blocks, vit_shape(model).blocks, strict=True)):
            reader, halfway = self.reader(block), Halfway(stream, block, self.part)
            moments = halfway.moments()
            own = self._scores(block, self.count(shape), moments, importance) if scores is None else scores[index]
            stays, removed = best_units(own, counts[index])
            kept_channels = self._channels(stays, block, shape)
            if compensate:
                gone = self._channels(removed, block, shape)
                weight, bias = fold_removed(reader.weight, reader.bias, kept_channels, gone, moments)
            else:
                weight, bias = reader.weight[:, kept_channels], reader.bias
            self.narrow(block, stays, weight, bias)
            halfway.leave(kept_channels)

    def scores_at_once(
        self, model: VisionTransformer, importance: str, compete: bool, context: Context
    ) -> list[torch.Tensor] | None:
        """Scores of all blocks in the uncut model where they are needed together; None: block by block is fine.

        Units that ``compete`` across blocks need them. Those of an elastic base are in their order already.
        """
        units = [self.count(shape) for shape in vit_shape(model).blocks]
        readers = [self.reader(block) for block in model.blocks]
        if context.nested is not None and not compete:
            return [-torch.arange(count) for count in units]
        learned = {"taylor": taylor_scores, "gates": learned_gates}.get(importance)
        if learned is not None:
            name = f"{importance} of {self.part}"
            return kept(name, model, context, lambda: learned(model, readers, units, context))
        if not compete:
            return None
        stream = TokenStream(model, context, max(reader.in_features for reader in readers))
        scores = []
        for block, count in zip(model.blocks, units, strict=True):
            (moments,) = stream.through(block, [self.reader(block)])
            scores.append(self._scores(block, count, moments, importance))
        return scores

    def _keep(self, block: Block, units: torch.Tensor, shape: BlockShape) -> None:
        """Keep ``units``, in their order, and the weights that read them."""
        reader = self.reader(block)
        self.narrow(block, units, reader.weight[:, self._channels(units, block, shape)], reader.bias)

    def _channels(self, units: torch.Tensor, block: Block, shape: BlockShape) -> torch.Tensor:
        """Input channels of the reader that belong to ``units``."""
        width = self.reader(block).in_features // self.count(shape)
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


class Heads(Units):
    """Attention heads, which ``attn.proj`` reads."""

    part: ClassVar[Literal["attn", "mlp"]] = "attn"

    def count(self, shape: BlockShape) -> int:
        return shape.heads

    def output(self, block: Block) -> tuple[nn.Linear | LowRankLinear, nn.Module]:
        return block.attn.proj, block.ls1

    def weight_norms(self, block: Block) -> torch.Tensor:
        """Norms of each head's value projection."""
        value = block.attn.qkv.weight.detach().chunk(3)[2]
        return value.unflatten(0, (block.attn.num_heads, -1)).square().sum((1, 2)).sqrt()

    def narrow(self, block: Block, kept: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Slice ``qkv``, replace ``proj``, and fix what timm's attention remembers of its size."""
        attention = block.attn
        channels = torch.arange(attention.qkv.out_features).reshape(3, attention.num_heads, attention.head_dim)
        _keep_outputs(attention, "qkv", channels[:, kept].flatten())
        _replace_reader(attention, "proj", weight, bias)
        attention.num_heads = len(kept)
        attention.attn_dim = len(kept) * attention.head_dim  # head_dim and scale stay: heads are removed whole


class MlpUnits(Units):
    """Hidden units of the MLP, which ``fc2`` reads."""

    part: ClassVar[Literal["attn", "mlp"]] = "mlp"

    def count(self, shape: BlockShape) -> int:
        return shape.mlp

    def output(self, block: Block) -> tuple[nn.Linear | LowRankLinear, nn.Module]:
        return block.mlp.fc2, block.ls2

    def weight_norms(self, block: Block) -> torch.Tensor:
        """Norms of the rows of ``fc1``."""
        return block.mlp.fc1.weight.detach().norm(dim=1)

    def narrow(self, block: Block, kept: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Slice ``fc1``, replace ``fc2``."""
        _keep_outputs(block.mlp, "fc1", kept)
        _replace_reader(block.mlp, "fc2", weight, bias)


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


def _replace_linear(module: nn.Module, name: str, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    """Give ``module.name`` these weights and the sizes that go with them."""
    setattr(module, name, new_linear(getattr(module, name), weight, bias))


def _keep_outputs(module: nn.Module, name: str, rows: torch.Tensor) -> None:
    """Keep only ``rows`` of the outputs of the linear (or factored) layer ``module.name``."""
    layer = getattr(module, name)
    linear = writing_layer(layer)
    owner, attribute = (module, name) if linear is layer else (layer, "up")
    _replace_linear(owner, attribute, linear.weight[rows], None if linear.bias is None else linear.bias[rows])


def _replace_reader(module: nn.Module, name: str, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    """Give the layer ``module.name``, or the thin one of it that reads, these weights."""
    layer = getattr(module, name)
    if reading_layer(layer) is layer:
        _replace_linear(module, name, weight, bias)
    else:
        _replace_linear(layer, "down", weight, None)
