"""Half-precision weights in the file, float32 arithmetic: half the bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sousvit.spaces.context import Context
from sousvit.spaces.export.artifact import Artifact
from sousvit.spaces.export.exporter import Deployment
from sousvit.spaces.needs import Needs
from sousvit.spaces.technique import Choices, DeployTechnique, StepConfig

if TYPE_CHECKING:
    from sousvit.spaces.shape import ModelShape

#: Smaller tensors stay float32: a Cast node costs more bytes than it saves.
SMALLEST = 256
FP16_LIMIT = 65504.0


class Fp16Config(StepConfig):
    """No parameters."""


def _onnxruntime(graph: Path, runtime: str, config: Any, context: Context, folder: Path) -> Artifact:
    halve_weights(graph, folder / graph.name)
    return Artifact(folder, runtime, graph.name)


def _openvino(graph: Path, runtime: str, config: Any, context: Context, folder: Path) -> Artifact:
    from sousvit.spaces.export.openvino import FILE, read_openvino, save_openvino

    save_openvino(read_openvino(graph), folder, fp16=True)
    # f32: OpenVINO would compute in bf16 by itself where the CPU can, which is what `bf16` is for.
    return Artifact(folder, runtime, FILE, options={"INFERENCE_PRECISION_HINT": "f32"})


def _litert(graph: Path, runtime: str, config: Any, context: Context, folder: Path) -> Artifact:
    from sousvit.spaces.export.litert import half_rules, quantize_litert

    return Artifact(folder, runtime, quantize_litert(graph, half_rules(), folder).name)


class Fp16(DeployTechnique):
    """Matrix weights stored as float16, with a Cast in front of their use; ONNX Runtime folds the Cast when it loads.

    CPUs without float16 arithmetic would have to convert at every node of a half-precision graph; that is why only
    the storage is halved. OpenVINO does the same with ``compress_to_fp16``, LiteRT's quantizer with float casting.
    """

    name: ClassVar[str] = "fp16"
    config: ClassVar[type[StepConfig]] = Fp16Config
    needs: ClassVar[Needs] = Needs(plain_vit=False, images=False)
    summary: ClassVar[str] = "float16 weights in the file, float32 arithmetic (needs no data)"
    source: ClassVar[str] = "mixed-precision storage: Micikevicius et al. (arXiv 1710.03740); openvino compress_to_fp16"
    deployments: ClassVar[Mapping[str, Deployment]] = {
        "onnxruntime": _onnxruntime,
        "openvino": _openvino,
        "litert": _litert,
    }

    def choices(self, shape: ModelShape) -> Choices:
        """None."""
        return {}

    def bytes_per_weight(self, config: Any) -> float:
        """Two."""
        return 2.0


def halve_weights(source: Path, target: Path) -> None:
    """Write ``source`` with its large float32 initializers as float16 and a Cast back to float32."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(source)
    casts = []
    for entry in model.graph.initializer:
        if entry.data_type != TensorProto.FLOAT:
            continue
        array = numpy_helper.to_array(entry)
        if array.size < SMALLEST or np.abs(array).max() > FP16_LIMIT:
            continue
        name = f"{entry.name}.fp16"
        casts.append(helper.make_node("Cast", [name], [entry.name], to=TensorProto.FLOAT, name=f"{entry.name}.cast"))
        entry.CopyFrom(numpy_helper.from_array(array.astype(np.float16), name))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])
    onnx.save(model, target)
