"""Dropped patches: those of least contrast never become tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from sousvit.spaces.context import Context
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.needs import Needs
from sousvit.spaces.shape import VitShape
from sousvit.spaces.technique import Choices, ModelTechnique, Stage, StepConfig
from sousvit.spaces.techniques.tokens.pooling import unsupported_pooling

if TYPE_CHECKING:
    import torch
    from timm.models.vision_transformer import VisionTransformer
    from torch import nn

#: Images whose contrast decides which places stay.
CONTRAST_IMAGES = 512


class DropPatchesConfig(StepConfig):
    """``keep``: share of the patches that become tokens. ``choice``: the same places for every image, those with most
    contrast on average (free at run time), or each image's own patches of most contrast.
    """

    keep: float = Field(default=0.75, gt=0, le=1)
    choice: Literal["places", "image"] = "places"


class DropPatches(ModelTechnique):
    """The patches of most contrast alone; all blocks run on fewer tokens."""

    name: ClassVar[str] = "drop_patches"
    stage: ClassVar[Stage] = Stage.INPUT
    rank: ClassVar[int] = 1
    config: ClassVar[type[StepConfig]] = DropPatchesConfig
    needs: ClassVar[Needs] = Needs(conflicts=frozenset({"tome", "evit", "attention"}))
    summary: ClassVar[str] = "leave out the patches with least contrast, before the first block"
    source: ClassVar[str] = "input token reduction as in PatchDropout (arXiv 2208.07220), chosen by contrast"

    def choices(self, shape: VitShape) -> Choices:
        return {"keep": (0.5, 0.625, 0.75, 0.875, 1.0), "choice": ("places", "image")}

    def unmet_need(self, shape: VitShape) -> str | None:
        return unsupported_pooling(shape)

    def is_identity(self, config: Any, shape: VitShape) -> bool:
        return kept_patches(shape, config.keep) == shape.num_patches

    def reshape(self, shape: VitShape, config: Any) -> VitShape:
        return shape.with_dropped(shape.num_patches - kept_patches(shape, config.keep))

    def apply(self, model: VisionTransformer, config: Any, context: Context) -> nn.Module:
        import torch

        from sousvit.spaces.layers.patch_selector import PatchSelector

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


def _best_places(model: VisionTransformer, count: int, context: Context) -> torch.Tensor:
    """The ``count`` places of most contrast on calibration images, ascending."""
    import torch

    from sousvit.spaces.calibration.stream import calibration_images, image_batches
    from sousvit.spaces.layers.patch_selector import contrast

    images = calibration_images(context, CONTRAST_IMAGES)
    patch = model.patch_embed.patch_size
    with torch.no_grad():
        total = sum(contrast(batch, patch).sum(0) for batch, _ in image_batches(images, context))
    assert isinstance(total, torch.Tensor)
    return total.topk(count).indices.sort().values
