"""bfloat16 inference in OpenVINO: fast where the CPU multiplies bf16, merely not faster elsewhere."""

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


class Bf16Config(StepConfig):
    """``store``: how the file keeps the weights; fp16 halves it."""

    store: Literal["fp32", "fp16"] = "fp16"


def _openvino(graph: Path, runtime: str, config: Any, context: Context, folder: Path) -> Artifact:
    from sousvit.spaces.export.openvino import FILE, read_openvino, save_openvino

    save_openvino(read_openvino(graph), folder, fp16=config.store == "fp16")
    return Artifact(folder, runtime, FILE, options={"INFERENCE_PRECISION_HINT": "bf16"})


class Bf16(DeployTechnique):
    """The fp32 graph with ``INFERENCE_PRECISION_HINT=bf16`` as an option of the artifact."""

    name: ClassVar[str] = "bf16"
    config: ClassVar[type[StepConfig]] = Bf16Config
    needs: ClassVar[Needs] = Needs(plain_vit=False, images=False, packages=("openvino",), extra="openvino")
    summary: ClassVar[str] = "bfloat16 arithmetic and half-size files (OpenVINO; needs no data)"
    source: ClassVar[str] = "OpenVINO INFERENCE_PRECISION_HINT"
    deployments: ClassVar[Mapping[str, Deployment]] = {"openvino": _openvino}

    def choices(self, shape: ModelShape) -> Choices:
        """Only the small file: storing fp32 buys nothing when bf16 computes."""
        return {"store": ("fp16",)}

    def bytes_per_weight(self, config: Any) -> float:
        """Two or four."""
        return 2.0 if config.store == "fp16" else 4.0
