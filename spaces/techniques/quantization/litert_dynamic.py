"""Dynamic int8 or int4 for LiteRT: quantized matrices and convolutions, activations quantized as they come."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sousvit.spaces.context import Context
from sousvit.spaces.export.artifact import Artifact
from sousvit.spaces.export.exporter import Deployment
from sousvit.spaces.needs import Needs
from sousvit.spaces.technique import Choices, DeployTechnique, StepConfig

if TYPE_CHECKING:
    from sousvit.spaces.shape import ModelShape


class LitertDynamicConfig(StepConfig):
    """``bits`` of a weight; one scale per output channel."""

    bits: Literal[8, 4] = 8


def _litert(graph: Path, runtime: str, config: Any, context: Context, folder: Path) -> Artifact:
    from sousvit.spaces.export.litert import litert_rules, quantize_litert

    return Artifact(folder, runtime, quantize_litert(graph, litert_rules(config.bits), folder).name)


class LitertDynamic(DeployTechnique):
    """Products of int8 activations and int8 or int4 weights in XNNPACK; its 16-bit sums do not overflow on any CPU."""

    name: ClassVar[str] = "litert_dynamic"
    config: ClassVar[type[StepConfig]] = LitertDynamicConfig
    needs: ClassVar[Needs] = Needs(
        plain_vit=False, images=False, packages=("litert_torch", "ai_edge_quantizer"), extra="litert"
    )
    summary: ClassVar[str] = "int8 or int4 weights, activations quantized on the fly (LiteRT; needs no data)"
    source: ClassVar[str] = "ai_edge_quantizer, dynamic range quantization"
    deployments: ClassVar[Mapping[str, Deployment]] = {"litert": _litert}

    def choices(self, shape: ModelShape) -> Choices:
        """Both widths."""
        return {"bits": (8, 4)}

    def bytes_per_weight(self, config: Any) -> float:
        """The bits alone: scales come on top, so it is a lower bound."""
        return float(config.bits / 8)
