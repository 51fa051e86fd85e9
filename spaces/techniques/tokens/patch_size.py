"""Larger patches: fewer tokens from the first layer on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from sousvit.spaces.context import Context
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.needs import Needs
from sousvit.spaces.shape import VitShape
from sousvit.spaces.technique import Choices, ModelTechnique, Stage, StepConfig

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer
    from torch import nn

#: Largest searched patch, in patches of the base.
LARGEST = 4
#: Fewer patches than this are not searched.
MIN_PATCHES = 4


class PatchSizeConfig(StepConfig):
    """``patch`` is the side of a square patch in pixels; it divides the image's sides."""

    patch: int = Field(ge=1, le=8192)


class PatchSize(ModelTechnique):
    """Larger patches on the same image, with patch and position embeddings resampled.

    Patch weights are resized by the pseudo-inverse of bicubic upsampling (PI-resize): an upsampled patch
    gives exactly the embedding that the small patch gave. Positions are interpolated. No data is needed.
    A detection head gets its map resized to the size it was made for, so it predicts at the same positions.
    """

    name: ClassVar[str] = "patch_size"
    stage: ClassVar[Stage] = Stage.INPUT
    config: ClassVar[type[StepConfig]] = PatchSizeConfig
    needs: ClassVar[Needs] = Needs(images=False)
    summary: ClassVar[str] = "larger patches, so fewer tokens"
    source: ClassVar[str] = "FlexiViT (arXiv 2212.08013)"

    def choices(self, shape: VitShape) -> Choices:
        """The base's patch and larger divisors of the image size, up to four times as large."""
        base = shape.patch[0]
        fitting = [size for size in range(base, LARGEST * base + 1) if all(side % size == 0 for side in shape.image)]
        return {"patch": tuple(size for size in fitting if size == base or _patches(shape, size) >= MIN_PATCHES)}

    def unmet_need(self, shape: VitShape) -> str | None:
        return None if shape.patch[0] == shape.patch[1] else "patches that are not square"

    def is_identity(self, config: Any, shape: VitShape) -> bool:
        return shape.patch == (config.patch, config.patch)

    def reshape(self, shape: VitShape, config: Any) -> VitShape:
        return shape.with_patch((config.patch, config.patch))

    def apply(self, model: VisionTransformer, config: Any, context: Context) -> nn.Module:
        import torch

        from sousvit.models.detector import head_of

        shape = vit_shape(model)
        self.reshape(shape, config)
        model.eval()
        if self.is_identity(config, shape):
            return model
        with torch.no_grad():  # timm resamples weights and positions, and updates grid_size, num_patches, patch_size
            model.set_input_size(patch_size=(config.patch, config.patch))
        for entry in model.feature_info:
            entry["reduction"] = config.patch
        detector = head_of(model)
        if detector is not None:
            detector.grid = tuple(model.patch_embed.grid_size)
        return model


def _patches(shape: VitShape, size: int) -> int:
    return (shape.image[0] // size) * (shape.image[1] // size)
