"""Fewer patches: the least useful ones never become tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from sousvit.spaces.calibration.stream import calibration_images, image_batches
from sousvit.spaces.context import Context
from sousvit.spaces.layers.token_blocks import unsupported_pooling
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.shape import VitShape
from sousvit.spaces.technique import Choices, ModelTechnique, Stage, StepConfig

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

#: Images whose contrast decides which places stay.
CONTRAST_IMAGES = 512


class DropPatchesConfig(StepConfig):
    """``keep``: share of the patches that become tokens. ``choice``: the same places for every image, those with most
    contrast on average (free at run time), or each image's own patches of most contrast.
    """

    keep: float = Field(default=0.75, gt=0, le=1)
    choice: Literal["places", "image"] = "places"


class PatchSelector(nn.Module):
    """Stands after the patch and position embeddings (``model.patch_drop``) and keeps some patches.

    Args:
        count: patches that stay.
        num_prefix: tokens before the patches.
        places: which ones, or None to choose by each image's contrast, which ``watch`` notes.
        patch: side of a patch in pixels.
    """

    places: torch.Tensor

    def __init__(self, count: int, num_prefix: int, places: torch.Tensor | None, patch: tuple[int, int]) -> None:
        super().__init__()
        self.count, self.num_prefix, self.patch = count, num_prefix, patch
        self.by_image = places is None
        self.register_buffer("places", torch.arange(count) if places is None else places)
        self._contrast: torch.Tensor | None = None

    def watch(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        """Forward pre-hook of the patch embedding: notes the contrast of every patch."""
        if self.by_image:
            self._contrast = contrast(inputs[0], self.patch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens ``[B, N, D]`` to ``[B, prefix + count, D]``."""
        prefix, patches = x[:, : self.num_prefix], x[:, self.num_prefix :]
        if self.by_image:
            assert self._contrast is not None
            order = self._contrast.topk(self.count, dim=1).indices
            kept = patches.gather(1, order[:, :, None].expand(-1, -1, x.shape[2]))
        else:
            kept = patches.index_select(1, self.places)
        return torch.cat([prefix, kept], dim=1)


def contrast(images: torch.Tensor, patch: tuple[int, int]) -> torch.Tensor:
    """Variance of the pixels of every patch, ``[B, patches]``."""
    batch, channels, height, width = images.shape
    rows, columns = height // patch[0], width // patch[1]
    parts = images.reshape(batch, channels, rows, patch[0], columns, patch[1])
    mean = parts.mean((1, 3, 5), keepdim=True)
    return (parts - mean).square().mean((1, 3, 5)).flatten(1)


class DropPatches(ModelTechnique):
    """Keeps the patches of most contrast; all blocks run on fewer tokens."""

    name: ClassVar[str] = "drop_patches"
    stage: ClassVar[Stage] = Stage.INPUT
    rank: ClassVar[int] = 1
    config: ClassVar[type[StepConfig]] = DropPatchesConfig
    summary: ClassVar[str] = "leave out the patches with least contrast, before the first block"
    source: ClassVar[str] = "input token reduction as in PatchDropout (arXiv 2208.07220), chosen by contrast"
    conflicts: ClassVar[frozenset[str]] = frozenset({"tome", "evit", "attention"})

    def choices(self, shape: VitShape) -> Choices:
        return {"keep": (0.5, 0.625, 0.75, 0.875, 1.0), "choice": ("places", "image")}

    def unmet_need(self, shape: VitShape) -> str | None:
        return unsupported_pooling(shape)

    def is_identity(self, config: Any, shape: VitShape) -> bool:
        return kept_patches(shape, config.keep) == shape.num_patches

    def reshape(self, shape: VitShape, config: Any) -> VitShape:
        return shape.with_dropped(shape.num_patches - kept_patches(shape, config.keep))

    def apply(self, model: VisionTransformer, config: Any, context: Context) -> nn.Module:
        shape = vit_shape(model)
        model.eval()
        count = kept_patches(shape, config.keep)
        if count == shape.num_patches:
            return model
        places = None
        if config.choice == "places":
            places = torch.arange(count) if context.calibration is None else _best_places(model, count, context)
        selector = PatchSelector(count, shape.num_prefix_tokens, places, shape.patch)
        if places is None:
            model.patch_embed.register_forward_pre_hook(selector.watch)
        model.patch_drop = selector.eval()
        return model


def kept_patches(shape: VitShape, keep: float) -> int:
    """Patches that stay, at least one."""
    return max(1, round(keep * shape.num_patches))


@torch.no_grad()
def _best_places(model: VisionTransformer, count: int, context: Context) -> torch.Tensor:
    images = calibration_images(context, CONTRAST_IMAGES)
    patch = model.patch_embed.patch_size
    total = sum(contrast(batch, patch).sum(0) for batch, _ in image_batches(images, context))
    assert isinstance(total, torch.Tensor)
    return total.topk(count).indices.sort().values
