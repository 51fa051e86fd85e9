"""A compact architecture in place of the base, trained from the base's outputs."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import field_validator

from sousvit.errors import TrialError, UnknownNameError, UserError
from sousvit.spaces.context import Context
from sousvit.spaces.module_shape import shape_of, vit_shape
from sousvit.spaces.shape import ModelShape, VitShape
from sousvit.spaces.technique import Choices, ModelTechnique, Stage, StepConfig

if TYPE_CHECKING:
    from torch import nn

NONE = "none"
#: Plain ViTs of other shapes, on the base's patches: (embedding, depth, heads).
PLAIN = {"vit_64x4": (64, 4, 2), "vit_96x6": (96, 6, 3), "vit_128x6": (128, 6, 4), "vit_192x4": (192, 4, 3)}
#: timm's compact hybrids, and the smallest side of an image that their strides divide without leaving nothing.
HYBRIDS = {
    "tiny_vit_5m_224": 64,
    "efficientvit_b0": 32,
    "efficientvit_m0": 128,
    "levit_128s": 64,
    "mobilevit_xxs": 64,
    "mobilevitv2_050": 64,
    "efficientformerv2_s0": 64,
    "repvit_m0_9": 32,
    "edgenext_xx_small": 32,
}


class StudentConfig(StepConfig):
    """``model``: a plain shape such as ``vit_96x6`` (embedding x depth), or any timm model by name; ``none`` keeps the
    base. Weights start at random: give the recipe a recovery.
    """

    model: str = NONE

    @field_validator("model")
    @classmethod
    def _known(cls, model: str) -> str:
        if model != NONE and model not in PLAIN and model not in HYBRIDS:
            _module_of(model)  # timm's others: known names never wait for its import
        return model


class Student(ModelTechnique):
    """Another network for the base's images and classes, with random weights.

    After a hybrid, techniques that need a plain Vision Transformer do not fit; quantization and distillation do.
    """

    name: ClassVar[str] = "student"
    stage: ClassVar[Stage] = Stage.ARCHITECTURE
    config: ClassVar[type[StepConfig]] = StudentConfig
    summary: ClassVar[str] = "a compact architecture from timm, trained by distillation from the base"
    source: ClassVar[str] = (
        "TinyViT (arXiv 2207.10666), EfficientViT (2205.14756, 2305.07027), LeViT (2104.01136), "
        "MobileViT (2110.02178), "
        "EfficientFormerV2 (2212.08059), RepViT (2307.09283), EdgeNeXt (2206.10589)"
    )

    def choices(self, shape: VitShape) -> Choices:
        """Plain shapes smaller than the base, and hybrids that the image is large enough for."""
        smaller = [
            name for name, (width, depth, _) in PLAIN.items() if width <= shape.embed_dim and depth <= shape.depth
        ]
        fitting = [name for name, side in HYBRIDS.items() if min(shape.image) >= side]
        return {"model": (NONE, *smaller, *fitting)}

    def unmet_need(self, shape: ModelShape) -> str | None:
        return "a detection head, which reads its own backbone" if getattr(shape, "detects", False) else None

    def is_identity(self, config: Any, shape: VitShape) -> bool:
        return bool(config.model == NONE)

    def leaves_plain(self, config: Any) -> bool:
        return (
            config.model == NONE or config.model in PLAIN or _module_of(config.model) in ("vision_transformer", "deit")
        )

    def reshape(self, shape: VitShape, config: Any) -> Any:
        """The student's shape; the first time, a model is built and run once."""
        if config.model == NONE:
            return shape
        return _shape_of(config.model, shape.image, shape.patch, shape.channels, shape.num_classes)

    def apply(self, model: nn.Module, config: Any, context: Context) -> nn.Module:
        if config.model == NONE:
            return model.eval()
        shape = vit_shape(model)
        return build(config.model, shape.image, shape.patch, shape.channels, shape.num_classes).eval()


def _module_of(name: str) -> str:
    import timm

    if not timm.is_model(name):
        raise UnknownNameError("student", name, [*PLAIN, *timm.list_models()])
    return str(timm.models.model_entrypoint(name).__module__).rsplit(".", 1)[-1]


def build(name: str, image: tuple[int, int], patch: tuple[int, int], channels: int, classes: int) -> nn.Module:
    """The student with random weights from torch's generator.

    Raises:
        UnknownNameError: no such student.
        TrialError: timm cannot build it for this image.
    """
    import timm

    if name in PLAIN:
        width, depth, heads = PLAIN[name]
        return timm.create_model(
            "vit_tiny_patch16_224", img_size=image, patch_size=patch, in_chans=channels, num_classes=classes,
            embed_dim=width, depth=depth, num_heads=heads, class_token=False, global_pool="avg",
        )  # fmt: skip
    module = _module_of(name)
    extra: dict[str, Any] = {"img_size": image} if module in SIZED else {}
    try:
        return timm.create_model(name, in_chans=channels, num_classes=classes, **extra)
    except Exception as error:  # timm checks little: asserts and arithmetic errors mean that the image does not suit
        raise TrialError(f"{name} cannot be built for {image[0]}x{image[1]} px: {type(error).__name__}") from error


#: Families whose constructor wants the image size.
SIZED = frozenset(
    {"vision_transformer", "deit", "levit", "swin_transformer", "efficientvit_msra", "efficientformer_v2"}
)


@lru_cache(maxsize=64)
def _shape_of(name: str, image: tuple[int, int], patch: tuple[int, int], channels: int, classes: int) -> ModelShape:
    import torch

    with torch.random.fork_rng(devices=[]):
        try:
            return shape_of(build(name, image, patch, channels, classes).eval(), name, image, channels, classes)
        except TrialError as error:
            raise UserError("a student must suit the images", str(error), "choose another student") from error
        except Exception as error:  # a network whose strides leave nothing of a small image
            raise UserError(
                "a student must suit the images", f"{name}: {type(error).__name__}", "choose another student"
            ) from error
