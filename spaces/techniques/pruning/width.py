"""Width pruning: what removing MLP units and removing heads have in common as techniques.

Every block keeps the same share of its units (uniform), or units of all blocks compete for the same number of places
(global): units of one kind are isomorphic, so their scores can be compared across blocks (Isomorphic pruning, Fang et
al., arXiv 2407.04616). What is done to tensors is in :mod:`sousvit.spaces.techniques.pruning.units`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from sousvit.spaces.context import Context
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.shape import BlockShape, VitShape
from sousvit.spaces.technique import ModelTechnique, StepConfig

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer
    from torch import nn

    from sousvit.spaces.techniques.pruning.units import Units


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
    """Base class of techniques that remove units of every block.

    Class attributes:
        multiple: units are removed this many at a time.
    """

    multiple: ClassVar[int] = 1

    @abstractmethod
    def units(self) -> Units:
        """The kind of unit that is removed."""

    @abstractmethod
    def num_kept(self, block: BlockShape, keep: float) -> int:
        """Units that stay, at least 1."""

    @abstractmethod
    def resized(self, block: BlockShape, units: int) -> BlockShape:
        """The block's shape with ``units`` units."""

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
        model.eval()
        if self.is_identity(config, shape):
            return model
        from sousvit.spaces.techniques.pruning.units import allocated

        units, counts = self.units(), [self.num_kept(block, config.keep) for block in shape.blocks]
        if context.calibration is None:
            units.keep_first(model, context.decided(self.name, counts))
            return model
        scores = units.scores_at_once(model, config.importance, config.allocation == "global", context)
        if config.allocation == "global":
            assert scores is not None
            counts = context.decide(self.name, allocated(scores, counts, self.multiple))
        units.keep_best(model, counts, scores, config.importance, config.compensate, context)
        return model
