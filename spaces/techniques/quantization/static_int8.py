"""Static int8: scales fixed from calibration images, so nothing is measured at inference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from sousvit.machine import int8_saturates
from sousvit.spaces.context import Context
from sousvit.spaces.export.exporter import Deployment, as_exported
from sousvit.spaces.needs import Needs
from sousvit.spaces.shape import ModelShape, VitShape
from sousvit.spaces.technique import Choices, DeployTechnique, StepConfig

if TYPE_CHECKING:
    from torch import nn


class QuantConfig(StepConfig):
    """``weights``: ``int7`` where the CPU adds int8 products in 16 bits (x86 without VNNI), otherwise ``int8``.
    ``clip``: ranges by the extremes, by percentiles, or by the least squared error.
    ``smoothing``: what is done about channels with outliers after a LayerNorm: nothing, SmoothQuant with exponent
    ``strength``, or RepQ-ViT's reparameterisation.
    ``float_blocks``: the blocks most sensitive to quantization, by measurement, stay float.
    """

    weights: Literal["int8", "int7"] = "int8"
    clip: Literal["minmax", "percentile", "mse"] = "mse"
    smoothing: Literal["none", "smooth", "reparam"] = "reparam"
    strength: float = Field(default=0.5, ge=0, le=1)
    float_blocks: int = Field(default=0, ge=0)


class StaticInt8(DeployTechnique):
    """Int8 linear layers; attention's own products, norms and the classifier stay float.

    Softmax outputs on a uniform 8-bit grid are a known cause of collapse in static quantization (FQ-ViT, 2111.13824).
    """

    name: ClassVar[str] = "static_int8"
    config: ClassVar[type[StepConfig]] = QuantConfig
    needs: ClassVar[Needs] = Needs(plain_vit=False, linear=True)
    summary: ClassVar[str] = "int8 linear layers with calibrated scales: clipping, smoothing, mixed precision"
    source: ClassVar[str] = (
        "RepQ-ViT (arXiv 2212.08254); SmoothQuant (2211.10438); clipping as in PTQ4ViT (2111.12293); QDQ format of ONNX"
    )
    deployments: ClassVar[Mapping[str, Deployment]] = {"onnxruntime": as_exported, "openvino": as_exported}

    def choices(self, shape: ModelShape) -> Choices:
        """Clipping, smoothing, and up to a quarter of the blocks in float."""
        depth = shape.depth if isinstance(shape, VitShape) else 0
        return {
            "weights": ("int7",) if int8_saturates() else ("int8",),
            "clip": ("minmax", "percentile", "mse"),
            "smoothing": ("none", "smooth", "reparam") if isinstance(shape, VitShape) else ("none",),
            "strength": (0.25, 0.5, 0.75) if isinstance(shape, VitShape) else (0.5,),
            "float_blocks": tuple(sorted({0, min(1, depth), depth // 4})),
        }

    def normalised(self, config: Any, shape: ModelShape) -> Any:
        """Smoothing needs the norms of a plain ViT's blocks, and only SmoothQuant has a strength."""
        smoothing = config.smoothing if isinstance(shape, VitShape) else "none"
        strength = config.strength if smoothing == "smooth" else QuantConfig().strength
        return config.model_copy(update={"smoothing": smoothing, "strength": strength})

    def bytes_per_weight(self, config: Any) -> float:
        """One; blocks that stay float come on top."""
        return 1.0

    def prepare(self, model: nn.Module, config: Any, context: Context) -> nn.Module:
        from sousvit.spaces.calibration.quantize import QuantPlan, quantize_model

        plan = QuantPlan(config.weights, config.clip, config.smoothing, config.strength, config.float_blocks)
        return quantize_model(model, plan, context)
