"""Quantization-aware training: step sizes and weights learn together, taught by the base model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from sousvit.machine import int8_saturates
from sousvit.spaces.context import Context
from sousvit.spaces.export.exporter import get_exporter
from sousvit.spaces.needs import Needs
from sousvit.spaces.shape import ModelShape
from sousvit.spaces.technique import Choices, Role, Stage, StepConfig
from sousvit.spaces.techniques.recovery.distill import Distill, TransferConfig

if TYPE_CHECKING:
    from torch import nn


class QatConfig(TransferConfig):
    """Recovery parameters as for ``distill``; ``weights`` and ``clip`` as for ``static_int8``."""

    epochs: int = Field(default=2, ge=1, le=100_000)
    learning_rate: float = Field(default=2e-4, gt=0)
    weights: Literal["int8", "int7"] = "int8"
    clip: Literal["minmax", "percentile", "mse"] = "mse"


class Qat(Distill):
    """Calibrated int8 layers, trained through their rounding by LSQ's gradient.

    What is exported is what was trained: the runtime's integers are the simulated ones. Weights of 4 bits would be
    stored in 8 (the runtimes have no 4-bit products for activations in int8), so they are not offered.
    """

    name: ClassVar[str] = "qat"
    stage: ClassVar[Stage] = Stage.RECOVERY
    role: ClassVar[Role] = Role.TRAIN_AND_COMPRESS
    config: ClassVar[type[StepConfig]] = QatConfig
    needs: ClassVar[Needs] = Needs(
        plain_vit=False,
        linear=True,
        conflicts=frozenset({"distill", "int8_dynamic", "ptq_int8", "static_int8", "weight_only", "fp16"}),
    )
    summary: ClassVar[str] = "int8 layers whose step sizes and weights are trained (LSQ), taught by the base model"
    source: ClassVar[str] = "LSQ (arXiv 1902.08153), LSQ+ (2004.09576); with distillation as in OFQ (2302.02210)"

    def epochs_of(self, config: Any, share: float) -> float:
        return float(config.epochs)

    def is_identity(self, config: Any, shape: ModelShape) -> bool:
        return False

    def choices(self, shape: ModelShape) -> Choices:
        return {"epochs": (2, 4, 8), "weights": ("int7",) if int8_saturates() else ("int8",)}

    def bytes_per_weight(self, config: Any) -> float:
        """One."""
        return 1.0

    def suits(self, runtime: str) -> bool:
        return get_exporter(runtime).takes_rounding

    def apply(self, model: nn.Module, config: Any, context: Context) -> nn.Module:
        from sousvit.spaces.calibration.quantize import QuantPlan, quantize_model

        model = quantize_model(model, QuantPlan(config.weights, config.clip), context)
        return super().apply(model, config, context)
