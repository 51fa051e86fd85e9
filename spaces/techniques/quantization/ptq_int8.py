"""Static int8 for OpenVINO: weights and activations quantized after calibration on a few training images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from sousvit.machine import computes_bf16, int8_saturates
from sousvit.spaces.context import Context
from sousvit.spaces.export.artifact import Artifact
from sousvit.spaces.export.exporter import Deployment
from sousvit.spaces.needs import Needs
from sousvit.spaces.shape import VitShape
from sousvit.spaces.technique import Choices, DeployTechnique, StepConfig

if TYPE_CHECKING:
    from torch import nn

    from sousvit.spaces.shape import ModelShape

#: Random inputs that stand for calibration images when only the structure is judged.
SKELETON_SAMPLES = 4


class PtqInt8Config(StepConfig):
    """``hint``: numbers of what stays float. ``preset``: symmetric activations (performance) or asymmetric ones
    (mixed). ``smooth_quant``: move outliers from activations into weights first. ``samples``: calibration images.
    ``float_parts``: so many parts of a plain ViT or detector (a block, the pyramid, one branch of the detection head)
    stay float, the most sensitive ones by measurement.
    """

    hint: Literal["f32", "bf16"] = "f32"
    preset: Literal["performance", "mixed"] = "performance"
    smooth_quant: bool = True
    samples: int = Field(default=256, ge=1, le=1_000_000)
    float_parts: int = Field(default=0, ge=0)


def _openvino(graph: Path, runtime: str, config: Any, context: Context, folder: Path) -> Artifact:
    from sousvit.spaces.export.onnx import graph_input_shape
    from sousvit.spaces.export.openvino import FILE, read_openvino, save_openvino
    from sousvit.spaces.techniques.quantization.nncf_tools import import_nncf, silent_tool

    nncf = import_nncf("ptq_int8")
    inputs = calibration_inputs(context, graph_input_shape(graph), config.samples)
    floats = [re.escape(name) for name in context.decided("ptq_int8", [])] if config.float_parts else []
    preset = {"performance": nncf.QuantizationPreset.PERFORMANCE, "mixed": nncf.QuantizationPreset.MIXED}
    with silent_tool("ptq_int8"):
        quantized = nncf.quantize(
            read_openvino(graph),
            nncf.Dataset(inputs),
            preset=preset[config.preset],
            subset_size=len(inputs),
            model_type=nncf.ModelType.TRANSFORMER,
            advanced_parameters=_advanced(config),
            ignored_scope=nncf.IgnoredScope(patterns=[f"^{name}/.*" for name in floats], validate=False),
        )
        save_openvino(quantized, folder)
    return Artifact(folder, runtime, FILE, options={"INFERENCE_PRECISION_HINT": config.hint})


class PtqInt8(DeployTechnique):
    """``nncf.quantize`` with the transformer model type; reduced weight range where int8 sums overflow."""

    name: ClassVar[str] = "ptq_int8"
    config: ClassVar[type[StepConfig]] = PtqInt8Config
    needs: ClassVar[Needs] = Needs(plain_vit=False, packages=("openvino", "nncf"), extra="openvino")
    summary: ClassVar[str] = "int8 weights and activations after calibration (OpenVINO)"
    source: ClassVar[str] = "nncf.quantize; SmoothQuant (arXiv 2211.10438)"
    deployments: ClassVar[Mapping[str, Deployment]] = {"openvino": _openvino}

    def choices(self, shape: ModelShape) -> Choices:
        """Both presets; the bf16 hint where the CPU computes in it; of a detector, up to four parts in float."""
        hints = ("f32", "bf16") if computes_bf16() else ("f32",)
        found: dict[str, tuple[Any, ...]] = {
            "preset": ("performance", "mixed"),
            "smooth_quant": (True, False),
            "hint": hints,
        }
        detects = isinstance(shape, VitShape) and shape.detects
        return {**found, "float_parts": (0, 1, 2, 4)} if detects else found

    def normalised(self, config: Any, shape: ModelShape) -> Any:
        """Only plain ViTs have parts."""
        return config if isinstance(shape, VitShape) else config.model_copy(update={"float_parts": 0})

    def shapes_by_data(self, config: Any) -> bool:
        """Parts cost differently, so an artifact with float ones is timed by itself."""
        return bool(config.float_parts)

    def bytes_per_weight(self, config: Any) -> float:
        """One; parts that stay float come on top."""
        return 1.0

    def prepare(self, model: nn.Module, config: Any, context: Context) -> nn.Module:
        """Decides which parts stay float; without calibration images the first ones."""
        from sousvit.spaces.calibration.quantize import sensitive_parts

        if config.float_parts:
            parts = quantizable_parts(model)
            names = list(parts) if context.calibration is None else sensitive_parts(model, parts, context)
            context.decide(self.name, names[: config.float_parts])
        return model


def quantizable_parts(model: Any) -> dict[str, nn.Module]:
    """Blocks and the parts of a detection head, by the names that the exporter gives their nodes."""
    from sousvit.models.detector import head_of

    parts = {f"/blocks/blocks.{index}": block for index, block in enumerate(getattr(model, "blocks", ()))}
    head = head_of(model)
    if head is not None:
        branches = head.fcos.head
        parts["/head/backbone"] = head.fcos.backbone
        parts["/head/head/classification_head"] = branches.classification_head
        parts["/head/head/regression_head"] = branches.regression_head
    return parts


def _advanced(config: PtqInt8Config) -> Any:
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

    fix = OverflowFix.ENABLE if int8_saturates() else OverflowFix.DISABLE
    return AdvancedQuantizationParameters(overflow_fix=fix, smooth_quant_alpha=None if config.smooth_quant else -1)


def calibration_inputs(context: Context, shape: tuple[int, int, int, int], samples: int) -> list[np.ndarray]:
    """Up to ``samples`` float32 arrays ``[1, C, H, W]``: calibration images, or seeded noise for a skeleton."""
    if context.calibration is None:
        noise = np.random.default_rng(context.seed).standard_normal((SKELETON_SAMPLES, *shape[1:]), dtype=np.float32)
        return [image[None] for image in noise]
    images = context.calibration.spread(samples, context.seed).images()
    return [image[None] for image in context.normalise(images).float().numpy()]
