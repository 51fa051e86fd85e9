"""Static int8 for OpenVINO: weights and activations quantized after calibration on a few training images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from sousvit.common.cpu import computes_bf16, int8_saturates
from sousvit.spaces.artifact import Artifact
from sousvit.spaces.technique import TECHNIQUES, Choices, Context, DeployTechnique, StepConfig

if TYPE_CHECKING:
    from sousvit.spaces.shape import ModelShape

#: Random inputs that stand for calibration images when only the structure is judged.
SKELETON_SAMPLES = 4


class PtqInt8Config(StepConfig):
    """``hint``: numbers of what stays float. ``preset``: symmetric activations (performance) or asymmetric ones
    (mixed). ``smooth_quant``: move outliers from activations into weights first. ``samples``: calibration images.
    """

    hint: Literal["f32", "bf16"] = "f32"
    preset: Literal["performance", "mixed"] = "performance"
    smooth_quant: bool = True
    samples: int = Field(default=256, ge=1)


class PtqInt8(DeployTechnique):
    """``nncf.quantize`` with the transformer model type; reduced weight range where int8 sums overflow."""

    name: ClassVar[str] = "ptq_int8"
    config: ClassVar[type[StepConfig]] = PtqInt8Config
    summary: ClassVar[str] = "int8 weights and activations after calibration (OpenVINO)"
    source: ClassVar[str] = "nncf.quantize; SmoothQuant (arXiv 2211.10438)"
    packages: ClassVar[tuple[str, ...]] = ("openvino", "nncf")
    extra: ClassVar[str] = "openvino"
    runtimes: ClassVar[frozenset[str]] = frozenset({"openvino"})

    def choices(self, shape: ModelShape) -> Choices:
        """Both presets; the bf16 hint where the CPU computes in it."""
        hints = ("f32", "bf16") if computes_bf16() else ("f32",)
        return {"preset": ("performance", "mixed"), "smooth_quant": (True, False), "hint": hints}

    def bytes_per_weight(self, config: Any) -> float:
        """One."""
        return 1.0

    def deploy(self, graph: Path, runtime: str, config: Any, context: Context, folder: Path) -> Artifact:
        """See :class:`DeployTechnique`."""
        from sousvit.spaces.export import graph_input_shape, read_openvino, save_openvino
        from sousvit.spaces.techniques.nncf_tools import import_nncf, silent_tool

        nncf = import_nncf("ptq_int8")
        shape = graph_input_shape(graph)
        inputs = calibration_inputs(context, shape, config.samples)
        preset = {"performance": nncf.QuantizationPreset.PERFORMANCE, "mixed": nncf.QuantizationPreset.MIXED}
        with silent_tool("ptq_int8"):
            quantized = nncf.quantize(
                read_openvino(graph),
                nncf.Dataset(inputs),
                preset=preset[config.preset],
                subset_size=len(inputs),
                model_type=nncf.ModelType.TRANSFORMER,
                advanced_parameters=_advanced(config),
            )
            save_openvino(quantized, folder)
        return Artifact(folder, runtime, "model.xml", shape, options={"INFERENCE_PRECISION_HINT": config.hint})


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


TECHNIQUES.add(PtqInt8.name, PtqInt8())
