"""A base trained once so that its parts work: recipes that cut it tell their accuracy before they are trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from sousvit.spaces.context import NESTED, Context
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.shape import VitShape
from sousvit.spaces.technique import Choices, ModelTechnique, Role, Stage, get_technique
from sousvit.spaces.techniques.pruning.width import WidthPruning
from sousvit.spaces.techniques.recovery.distill import RecoveryConfig, train

if TYPE_CHECKING:
    from torch import nn

    from sousvit.spaces.recipe import Step

#: Cutting techniques whose units are put in order.
ORDERED = ("prune_heads", "prune_mlp")
#: Shares of heads are rounded to four digits.
SLACK = 1e-3


class ElasticConfig(RecoveryConfig):
    """Recovery parameters as for ``distill``. ``mlp``, ``heads`` and ``depth`` are the smallest shares that the parts
    keep, and ``patches`` too where parts have fewer ``tokens`` by that technique. ``networks`` learn together in each
    step: the smallest part, random ones of a ``pool``, and with ``whole`` the whole.
    """

    epochs: int = Field(default=4, ge=0, le=100_000)
    mlp: float = Field(default=0.25, gt=0, le=1)
    heads: float = Field(default=0.25, gt=0, le=1)
    depth: float = Field(default=0.5, gt=0, le=1)
    tokens: Literal["none", "tome", "evit"] = "none"
    patches: float = Field(default=0.5, gt=0, le=1)
    whole: bool = False
    pool: int = Field(default=16, ge=1, le=10_000)
    networks: int = Field(default=3, ge=2)


class Elastic(ModelTechnique):
    """The base with its units in the order of their importance, trained with its parts; see :mod:`.subnetwork`.

    The shape stays. Later steps that can (``nested`` of their techniques) cut its first units; a recipe with others
    begins with the plain base.
    """

    name: ClassVar[str] = NESTED
    stage: ClassVar[Stage] = Stage.BASE
    role: ClassVar[Role] = Role.PREPARE
    config: ClassVar[type[ElasticConfig]] = ElasticConfig
    summary: ClassVar[str] = "a base trained once so that its narrower and shallower parts work; shared by all recipes"
    source: ClassVar[str] = (
        "sandwich rule: universally slimmable networks (arXiv 1903.05134); Once-for-all (1908.09791); "
        "AutoFormer (2107.00651)"
    )

    def choices(self, shape: VitShape) -> Choices:
        return {"epochs": (0, 4)}

    def unmet_need(self, shape: VitShape) -> str | None:
        if shape.detects:
            return "a detection head, whose parts were not seen to gain by it"
        return None if len(set(shape.blocks)) == 1 else "blocks of different widths"

    def is_identity(self, config: Any, shape: VitShape) -> bool:
        return bool(config.epochs == 0)

    def reshape(self, shape: VitShape, config: Any) -> VitShape:
        return shape

    def apply(self, model: nn.Module, config: Any, context: Context) -> nn.Module:
        model.eval()
        if config.epochs == 0 or context.calibration is None:
            return model
        from sousvit.spaces.techniques.elastic.subnetwork import Sandwich

        order(model, context)
        if context.train is not None:
            draws = parts(config, vit_shape(model))
            together = Sandwich(model, draws, context, config.networks, config.whole, config.pool)
            train(model, config, config.epochs, context, networks=together)
        return model


def order(model: nn.Module, context: Context) -> None:
    """Put the most important heads and MLP units of every block first, and decide in which order blocks go.

    The model computes the same. What was decided for this base before is done again.
    """
    from sousvit.spaces.techniques.pruning.blocks import least_needed

    known = context.nested
    units: dict[str, list[list[int]]] = {}
    for name in ORDERED:
        handler = get_technique(name)
        assert isinstance(handler, WidthPruning)
        units[name] = handler.units().ranked(model, context) if known is None else known["units"][name]
        handler.units().reorder(model, units[name])
    if known is None:
        blocks = least_needed(model, vit_shape(model).depth - 1, context)
        context.decide(NESTED, {"blocks": blocks, "units": units})


def parts(config: ElasticConfig, shape: VitShape) -> dict[str, list[Step | None]]:
    """Per technique the cuts of which a part has one, mild to strong, within the smallest shares; None: not cut."""
    least = max(1, round(config.depth * shape.depth))
    shallow = shape.with_blocks(shape.blocks[:least])  # fewer blocks cannot merge as many tokens
    found = {
        "prune_depth": _steps("prune_depth", shape, "drop", range(1, shape.depth - least + 1)),
        "prune_heads": _kept("prune_heads", shape, config.heads),
        "prune_mlp": _kept("prune_mlp", shape, config.mlp),
    }
    if config.tokens != "none":
        found[config.tokens] = _kept(config.tokens, shallow, config.patches)
    return found


def _kept(technique: str, shape: VitShape, least: float) -> list[Step | None]:
    listed = get_technique(technique).choices(shape)["keep"]
    return _steps(technique, shape, "keep", sorted((keep for keep in listed if keep >= least - SLACK), reverse=True))


def _steps(technique: str, shape: VitShape, name: str, values: Iterable[float]) -> list[Step | None]:
    from sousvit.spaces.recipe import Step

    steps = [Step.make(technique, **{name: value}) for value in values]
    handler = get_technique(technique)
    return [None, *(step for step in steps if not handler.is_identity(step.config, shape))]
