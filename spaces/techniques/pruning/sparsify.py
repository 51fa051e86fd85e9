"""Sparsity: single weights set to zero, anywhere or two in every four."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from sousvit.spaces.context import Context
from sousvit.spaces.shape import VitShape
from sousvit.spaces.technique import Choices, ModelTechnique, Stage, StepConfig

if TYPE_CHECKING:
    import torch
    from timm.models.vision_transformer import Block, VisionTransformer
    from torch import nn


class SparsifyConfig(StepConfig):
    """``sparsity``: share of the weights that become zero (0.5 for ``2:4``). ``pattern``: any weights, or two of four
    neighbours. ``importance``: magnitude times the norm of the input (Wanda), or magnitude alone.
    """

    sparsity: float = Field(default=0.5, ge=0, lt=1)
    pattern: Literal["unstructured", "2:4"] = "unstructured"
    importance: Literal["wanda", "magnitude"] = "wanda"


class Sparsify(ModelTechnique):
    """Zeros for the least important weights of every output row; blocks in order, each reading the sparse earlier ones.

    No CPU runtime here computes faster for it, and files keep their size: what shrinks is the *compressed* file
    (objective ``size_compressed``), which counts where models are downloaded. Training afterwards keeps the zeros.
    """

    name: ClassVar[str] = "sparsify"
    stage: ClassVar[Stage] = Stage.WEIGHTS  # whatever refits layers after it would fill the zeros
    config: ClassVar[type[StepConfig]] = SparsifyConfig
    summary: ClassVar[str] = (
        "zero single weights (Wanda, 2:4); shrinks the compressed download, speeds up no CPU runtime"
    )
    source: ClassVar[str] = "Wanda (arXiv 2306.11695); 2:4 sparsity (2104.08378)"

    def choices(self, shape: VitShape) -> Choices:
        return {"sparsity": (0.0, 0.3, 0.5, 0.7), "pattern": ("unstructured", "2:4")}

    def is_identity(self, config: Any, shape: VitShape) -> bool:
        return bool(config.sparsity == 0)

    def normalised(self, config: Any, shape: VitShape) -> Any:
        """Two of four are half."""
        return config.model_copy(update={"sparsity": 0.5}) if config.pattern == "2:4" else config

    def reshape(self, shape: VitShape, config: Any) -> VitShape:
        """Shapes stay."""
        return shape

    def apply(self, model: VisionTransformer, config: Any, context: Context) -> nn.Module:
        import torch

        from sousvit.spaces.calibration.stream import TokenStream

        model.eval()
        if config.sparsity == 0:
            return model
        stream = None
        if context.calibration is not None and config.importance == "wanda":
            stream = TokenStream(model, context, max(block.mlp.fc2.in_features for block in model.blocks))
        for block in model.blocks:
            layers = _layers(block)
            norms = [torch.ones(layer.in_features) for layer in layers]
            if stream is not None:
                found = stream.moments(block, layers)
                norms = [(one.xx.diagonal() / one.count).sqrt().float() for one in found]
            for layer, norm in zip(layers, norms, strict=True):
                keep_zeros(layer, chosen(layer.weight.detach().abs() * norm, config))
            if stream is not None:
                stream.through(block)
        return model


def _layers(block: Block) -> list[nn.Linear]:
    """The linear layers of ``block``; of a factored one both factors."""
    from sousvit.spaces.layers.low_rank import reading_layer, writing_layer

    found: list[nn.Linear] = []
    for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
        for part in (reading_layer(layer), writing_layer(layer)):
            if all(part is not other for other in found):
                found.append(part)
    return found


def chosen(scores: torch.Tensor, config: SparsifyConfig) -> torch.Tensor:
    """Bool ``[outputs, inputs]``: the weights that stay."""
    import torch

    outputs, inputs = scores.shape
    if config.pattern == "2:4" and inputs % 4 == 0:
        groups = scores.view(outputs, inputs // 4, 4)
        best = groups.topk(2, dim=2).indices
        return torch.zeros_like(groups, dtype=torch.bool).scatter(2, best, True).view(outputs, inputs)
    share = 0.5 if config.pattern == "2:4" else config.sparsity
    best = scores.topk(inputs - round(share * inputs), dim=1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, best, True)


def keep_zeros(layer: nn.Linear, kept: torch.Tensor) -> None:
    """Zero the other weights; training (:func:`.fit`) zeroes them again after every step."""
    import torch

    with torch.no_grad():
        layer.weight.mul_(kept)
    layer.keeps_zeros = True  # type: ignore[assignment]
