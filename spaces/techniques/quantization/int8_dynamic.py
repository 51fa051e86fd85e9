"""Dynamic int8 for ONNX Runtime: int8 matrix weights, activations quantized as they come; no calibration data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sousvit.errors import TrialError, one_line
from sousvit.machine import int8_saturates
from sousvit.spaces.context import Context
from sousvit.spaces.export.artifact import Artifact
from sousvit.spaces.export.exporter import Deployment
from sousvit.spaces.needs import Needs
from sousvit.spaces.technique import Choices, DeployTechnique, StepConfig

if TYPE_CHECKING:
    from sousvit.spaces.shape import ModelShape


class Int8DynamicConfig(StepConfig):
    """``weights``: ``int8`` is fastest where the CPU has VNNI or is an ARM. Other x86 CPUs add the products in
    16 bits, which overflows: there ``int7`` (int8 with a reduced range) or ``uint8`` keep the accuracy; ``int7`` was
    measured faster (AVX2, a ViT of 2.7 M parameters: 1.55 times the speed of fp32, ``uint8`` 1.30 times).
    ``per_channel``: one scale per output channel instead of one per matrix.
    """

    weights: Literal["int8", "int7", "uint8"] = "int7"
    per_channel: bool = True


def _onnxruntime(graph: Path, runtime: str, config: Any, context: Context, folder: Path) -> Artifact:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from sousvit.spaces.export.onnx import constant_nodes, quiet

    try:
        with quiet():
            quantize_dynamic(
                graph,
                folder / graph.name,
                op_types_to_quantize=["MatMul", "Gemm"],
                nodes_to_exclude=constant_nodes(graph),
                per_channel=config.per_channel,
                reduce_range=config.weights == "int7",
                weight_type=QuantType.QUInt8 if config.weights == "uint8" else QuantType.QInt8,
            )
    except Exception as error:  # the quantizer raises many kinds
        raise TrialError(f"int8_dynamic failed: {one_line(error)}") from error
    return Artifact(folder, runtime, graph.name, batch_dependent=True)


class Int8Dynamic(DeployTechnique):
    """Matrix products as MatMulInteger; convolutions stay float.

    The patch embedding as ConvInteger was measured at the same latency (ViT-Tiny, 9.13 and 9.14 ms) for half a
    per cent of the file, so it is left alone.
    """

    name: ClassVar[str] = "int8_dynamic"
    config: ClassVar[type[StepConfig]] = Int8DynamicConfig
    needs: ClassVar[Needs] = Needs(plain_vit=False, linear=True, images=False, packages=("onnxruntime",))
    summary: ClassVar[str] = "int8 matrices, activations quantized on the fly (ONNX Runtime; needs no data)"
    source: ClassVar[str] = "onnxruntime.quantization.quantize_dynamic"
    deployments: ClassVar[Mapping[str, Deployment]] = {"onnxruntime": _onnxruntime}

    def choices(self, shape: ModelShape) -> Choices:
        """Weight types that this CPU computes without overflow."""
        return {"weights": ("int7", "uint8") if int8_saturates() else ("int8",)}

    def bytes_per_weight(self, config: Any) -> float:
        """One."""
        return 1.0
