"""Weight-only quantization: 8- or 4-bit matrices, float activations. Small files; speed depends on the runtime."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sousvit.errors import TrialError, UserError, one_line
from sousvit.spaces.context import Context
from sousvit.spaces.export.artifact import Artifact
from sousvit.spaces.export.exporter import Deployment
from sousvit.spaces.needs import Needs
from sousvit.spaces.technique import Choices, DeployTechnique, StepConfig

if TYPE_CHECKING:
    from types import ModuleType

    from sousvit.spaces.shape import ModelShape

#: At 4 bits, groups of 64 had 2.9 times the logit error of 32 (ViT-Tiny, random weights) for a tenth less in size;
#: on a trained CIFAR-10 ViT the two scored alike. The safer one is the default.
DEFAULT_GROUP = 32
#: MatMulNBits: compute in int8 (4) where that was the faster way on AVX2, else in fp32 (0 leaves it to the runtime).
ACCURACY_LEVEL = {8: 4, 4: 0}


class WeightOnlyConfig(StepConfig):
    """``bits`` of a matrix weight. ``group_size``: weights that share a scale, 32 by default; OpenVINO's 8-bit
    weights always share one per output channel, so it must be left out there. ``hint``: numbers in which
    OpenVINO computes (ONNX Runtime computes in fp32).
    """

    bits: Literal[8, 4] = 8
    group_size: Literal[16, 32, 64, 128] | None = None
    hint: Literal["f32", "bf16"] | None = None


def _openvino(graph: Path, runtime: str, config: Any, context: Context, folder: Path) -> Artifact:
    from sousvit.spaces.export.openvino import FILE

    _compress_openvino(graph, config, folder)
    return Artifact(folder, runtime, FILE, options={"INFERENCE_PRECISION_HINT": config.hint or "f32"})


def _onnxruntime(graph: Path, runtime: str, config: Any, context: Context, folder: Path) -> Artifact:
    if config.hint is not None:
        raise UserError("weight_only's hint belongs to OpenVINO", config.hint, f"leave it out for {runtime}")
    _compress_onnx(graph, config, folder)
    return Artifact(folder, runtime, graph.name)


class WeightOnly(DeployTechnique):
    """``nncf.compress_weights`` for OpenVINO, MatMulNBits for ONNX Runtime; asymmetric, per group."""

    name: ClassVar[str] = "weight_only"
    config: ClassVar[type[StepConfig]] = WeightOnlyConfig
    needs: ClassVar[Needs] = Needs(plain_vit=False, images=False)
    linear_only: ClassVar[frozenset[str]] = frozenset({"onnxruntime"})
    summary: ClassVar[str] = "8- or 4-bit weights with float activations (for size; needs no data)"
    source: ClassVar[str] = "nncf.compress_weights; onnxruntime MatMulNBits"
    deployments: ClassVar[Mapping[str, Deployment]] = {"onnxruntime": _onnxruntime, "openvino": _openvino}

    def choices(self, shape: ModelShape) -> Choices:
        """Both widths; the group size keeps its default."""
        return {"bits": (8, 4)}

    def bytes_per_weight(self, config: Any) -> float:
        """The bits alone: scales come on top, so it is a lower bound."""
        return float(config.bits / 8)


def _compress_openvino(graph: Path, config: WeightOnlyConfig, folder: Path) -> None:
    from sousvit.spaces.export.openvino import read_openvino, save_openvino
    from sousvit.spaces.techniques.quantization.nncf_tools import import_nncf, silent_tool

    if config.bits == 8 and config.group_size is not None:
        raise UserError("OpenVINO's 8-bit weights have one scale a channel", config.group_size, "leave group_size out")
    nncf = import_nncf("weight_only")
    with silent_tool("weight_only"):
        model = read_openvino(graph)
        if config.bits == 8:
            compressed = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
        else:
            compressed = nncf.compress_weights(
                model,
                mode=nncf.CompressWeightsMode.INT4_ASYM,
                group_size=config.group_size or DEFAULT_GROUP,
                advanced_parameters=_adjusted_groups(),
            )
        save_openvino(compressed, folder)


def _adjusted_groups() -> Any:
    """Widths that the group does not divide get a smaller group instead of an error (pruned models have any width)."""
    from nncf.quantization.advanced_parameters import AdvancedCompressionParameters, GroupSizeFallbackMode

    return AdvancedCompressionParameters(
        group_size_fallback_mode=GroupSizeFallbackMode.ADJUST, min_adjusted_group_size=8
    )


def _compress_onnx(graph: Path, config: WeightOnlyConfig, folder: Path) -> None:
    import onnx

    from sousvit.spaces.export.onnx import quiet

    try:
        with quiet():
            tool = _nbits_tool()
            settings = tool.DefaultWeightOnlyQuantConfig(
                block_size=config.group_size or DEFAULT_GROUP,
                is_symmetric=False,
                bits=config.bits,
                accuracy_level=ACCURACY_LEVEL[config.bits],
            )
            quantizer = tool.MatMulNBitsQuantizer(onnx.load(graph), algo_config=settings)
            quantizer.process()
            compressed = quantizer.model.model
            onnx.save(compressed, folder / graph.name)
    except Exception as error:  # the quantizer raises many kinds
        raise TrialError(f"weight_only failed: {one_line(error)}") from error
    if not any(node.op_type == "MatMulNBits" for node in compressed.graph.node):
        raise TrialError("weight_only found nothing to compress: ONNX Runtime has it for matrix products only")


def _nbits_tool() -> ModuleType:
    """ONNX Runtime's quantizer, without the console handler that importing it gives the root logger."""
    keep = logging.NullHandler()
    logging.root.addHandler(keep)
    try:
        from onnxruntime.quantization import matmul_nbits_quantizer
    finally:
        logging.root.removeHandler(keep)
    return matmul_nbits_quantizer
