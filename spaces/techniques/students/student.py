"""A compact architecture in place of the base, trained from the base's outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator, model_validator

from sousvit.errors import TrialError, UserError
from sousvit.spaces.context import Context, Start
from sousvit.spaces.module_shape import shape_of, unsupported_reason, vit_shape
from sousvit.spaces.needs import Needs
from sousvit.spaces.shape import ModelShape, NetworkShape, OtherShape, VitShape
from sousvit.spaces.technique import Choices, ModelTechnique, Stage, StepConfig
from sousvit.spaces.techniques.students import convolutional, named
from sousvit.spaces.techniques.students.convolutional import FAMILIES, LAST_MAP, Network
from sousvit.spaces.techniques.students.named import HYBRIDS, PLAIN

if TYPE_CHECKING:
    from torch import nn

NONE = "none"
WIDTH, DEPTH = 24, 1
#: Widths that a search chooses from, as far as the MACs of their networks lie within these shares of the base's.
WIDTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
SMALLEST_SHARE, LARGEST_SHARE = 1 / 300, 1.0


class StudentConfig(StepConfig):
    """``model``: a family of convolutional networks that fit any image (``residual``, ``repvgg``, ``inverted``,
    ``hybrid``) with ``width`` channels in its first stage (24) and ``depth`` blocks a stage (1); a plain Vision
    Transformer such as ``vit_96x6`` (embedding x depth); any timm model by name; ``none`` keeps the base.

    Weights start at random; those of a timm model are its own with ``pretrained: true`` (from the hub, or its cache),
    and a ``checkpoint`` of any form gives a network its weights. A new classifier is learned in any case: give the
    recipe a recovery.
    """

    model: str = NONE
    width: int | None = Field(default=None, ge=convolutional.WIDTH_UNIT, multiple_of=convolutional.WIDTH_UNIT)
    depth: int | None = Field(default=None, ge=1, le=16)
    pretrained: bool = False
    checkpoint: str | None = None

    @field_validator("model")
    @classmethod
    def _known(cls, value: str) -> str:
        if value != NONE and not any(value in known for known in (FAMILIES, PLAIN, HYBRIDS)):
            named.module_of(value)  # timm's others: known names never wait for its import
        return value

    @model_validator(mode="after")
    def _one_source(self) -> StudentConfig:
        named.require_one_source(self.model, self.pretrained, self.checkpoint)
        return self


class Student(ModelTechnique):
    """Another network for the base's images and classes.

    After one that is no plain Vision Transformer, techniques that need one do not fit; quantization and distillation
    do.
    """

    name: ClassVar[str] = "student"
    stage: ClassVar[Stage] = Stage.ARCHITECTURE
    config: ClassVar[type[StepConfig]] = StudentConfig
    needs: ClassVar[Needs] = Needs(plain_vit=False, images=False)
    scale: ClassVar[str] = "width"
    sources: ClassVar[frozenset[str]] = frozenset({"checkpoint"})
    summary: ClassVar[str] = "a compact network in place of the base, trained by distillation from it"
    source: ClassVar[str] = (
        "ResNet (arXiv 1512.03385), RepVGG (2101.03697), MobileNetV2 (1801.04381), MobileNetV4 (2404.10518), "
        "TinyViT (2207.10666), EfficientViT (2205.14756, 2305.07027), LeViT (2104.01136), "
        "MobileViT (2110.02178), "
        "EfficientFormerV2 (2212.08059), RepViT (2307.09283), EdgeNeXt (2206.10589)"
    )

    def choices(self, shape: Any) -> Choices:
        """The convolutional families in sizes up to the base's; plain shapes smaller than the base, and timm's compact
        networks, that the image is large enough for.
        """
        smaller, fitting = [], []
        if isinstance(shape, VitShape) and not shape.detects:
            smaller = [
                name for name, (width, depth, _) in PLAIN.items() if width <= shape.embed_dim and depth <= shape.depth
            ]
        if not shape.detects:
            fitting = [name for name, side in HYBRIDS.items() if min(shape.image) >= side]
        families = FAMILIES if min(shape.image) >= convolutional.SMALLEST_IMAGE else ()
        return {"model": (NONE, *families, *smaller, *fitting), "width": _widths(shape), "depth": (1, 2)}

    def is_identity(self, config: Any, shape: ModelShape) -> bool:
        return bool(config.model == NONE)

    def is_asked(self, parameter: str, chosen: Mapping[str, Any]) -> bool:
        model = chosen.get("model", NONE)
        if parameter == "pretrained":
            return model not in (NONE, *FAMILIES, *PLAIN)
        return parameter == "model" or (model != NONE if parameter == "checkpoint" else model in FAMILIES)

    def normalised(self, config: Any, shape: ModelShape) -> Any:
        if config.model == NONE:
            return StudentConfig()
        if config.model not in FAMILIES:
            return config.model_copy(update={"width": None, "depth": None})
        return config.model_copy(update={"width": config.width or WIDTH, "depth": config.depth or DEPTH})

    def start_of(self, config: Any) -> Start:
        if config.model == NONE:
            return Start.BASE
        return Start.PRETRAINED if config.pretrained or config.checkpoint else Start.RANDOM

    def family_of(self, config: Any) -> str:
        return "" if config.model == NONE else str(config.model)

    def leaves_linear(self, config: Any) -> bool:
        return config.model not in FAMILIES

    def leaves_plain(self, config: Any) -> bool:
        if config.model in (NONE, *PLAIN):
            return True
        return config.model not in FAMILIES and named.module_of(config.model) in ("vision_transformer", "deit")

    def reshape(self, shape: Any, config: Any) -> Any:
        """The student's shape; of a timm model, the first time, it is built and run once."""
        if config.model == NONE:
            return shape
        if config.model in FAMILIES:
            return _costs(_network(config, shape), shape)
        if shape.detects:
            _require_maps(config)
            backbone, width = _backbone_of(config.model, _stride(shape), shape.image, shape.channels)
            return _under_head(backbone, width, shape)
        return _shape_of(config.model, shape.image, _patch(config, shape), shape.channels, shape.num_classes)

    def apply(self, model: nn.Module, config: Any, context: Context) -> nn.Module:
        if config.model == NONE:
            return model.eval()
        shape = _read(model, context)
        weights = context.calibration is not None  # a skeleton needs none
        if shape.detects:
            return _detector(model, config, shape, weights).eval()
        if config.model in FAMILIES:
            student = _network(config, shape).build()
        else:
            size = shape.image, _patch(config, shape), shape.channels, shape.num_classes
            student = named.build(config.model, *size, pretrained=config.pretrained and weights)
        if config.checkpoint is not None and weights:
            named.fill_from(student, config.checkpoint)
        return student.eval()


def _detector(model: nn.Module, config: StudentConfig, shape: Any, weights: bool) -> nn.Module:
    from sousvit.spaces.techniques.students.detection import of_network, of_timm

    if config.model in FAMILIES:
        student = of_network(_network(config, shape), model)
    else:
        _require_maps(config)
        student = of_timm(config.model, model, shape.channels, config.pretrained and weights)
    if config.checkpoint is not None and weights:
        named.fill_backbone(student.network, config.checkpoint)
    return student


def _read(model: nn.Module, context: Context) -> VitShape | OtherShape:
    """What the base reads and tells apart; of one that is no plain Vision Transformer, no more than that."""
    if unsupported_reason(model) is None:
        return vit_shape(model)
    assert context.image_shape is not None
    channels, *image = context.image_shape
    import torch

    with torch.inference_mode():  # a user's own module need not say how many classes it has
        classes = model(torch.zeros(1, *context.image_shape)).shape[-1]
    return OtherShape("the base", (image[0], image[1]), channels, classes, 0, 0, 0, 0)


def _patch(config: StudentConfig, shape: VitShape | OtherShape) -> tuple[int, int]:
    """Of a plain Vision Transformer: the base's.

    Raises:
        UserError: the base has none.
    """
    if isinstance(shape, VitShape):
        return shape.patch
    if config.model in PLAIN:
        rule = f"a student {config.model} has its base's patches"
        raise UserError(rule, f"{shape.name} is no plain Vision Transformer", "choose another student")
    return shape.image


def _require_maps(config: StudentConfig) -> None:
    if config.model in PLAIN:
        rule = "a student that detects is a network of convolutions"
        raise UserError(rule, f"model: {config.model}", f"choose one of {', '.join(FAMILIES)}, or one of timm's")


def _stride(shape: VitShape | OtherShape) -> int:
    """Of the map that the base's detection head reads.

    Raises:
        UserError: no network of convolutions has it.
    """
    assert isinstance(shape, VitShape)
    stride = shape.patch[0]
    if stride < LAST_MAP or stride & (stride - 1):
        rule = f"a student that detects needs patches of a power of two from {LAST_MAP} px on"
        raise UserError(rule, f"{stride} px", "leave students out of the space")
    return stride


def _under_head(backbone: OtherShape, width: int, shape: VitShape) -> OtherShape:
    """What a backbone and the base's detection head cost together; its last map has ``width`` channels."""
    reduce = width * shape.head_channels
    return replace(
        backbone,
        num_classes=shape.num_classes,
        num_params=backbone.num_params + reduce + shape.other_params,
        num_macs=backbone.num_macs + reduce * shape.num_patches + shape.head_macs,
        num_matrix_weights=backbone.num_matrix_weights + reduce + shape.head_weights,
        detects=True,
    )


def _costs(network: Network, shape: Any) -> OtherShape:
    return _under_head(network.shape(), network.widths[-1], shape) if shape.detects else network.shape()


def _network(config: StudentConfig, shape: VitShape | OtherShape) -> Network:
    """The convolutional network for the base's images and classes, or for the base's detection head.

    Raises:
        UserError: the images are too small, or the base's patches have another stride than a network can have.
    """
    if min(shape.image) < convolutional.SMALLEST_IMAGE:
        rule = f"a student of convolutions needs images of at least {convolutional.SMALLEST_IMAGE} px"
        raise UserError(rule, f"{shape.image[0]}x{shape.image[1]} px", "choose another student")
    width, depth = config.width or WIDTH, config.depth or DEPTH
    if shape.detects:
        return Network(config.model, width, depth, shape.image, shape.channels, 0, _stride(shape))
    return Network(config.model, width, depth, shape.image, shape.channels, shape.num_classes)


def _widths(shape: VitShape | OtherShape) -> tuple[int, ...]:
    """Those of :data:`WIDTHS` whose plainest networks are worth a trial beside a base of ``shape``."""
    if min(shape.image) < convolutional.SMALLEST_IMAGE:
        return WIDTHS[:1]
    plain = [StudentConfig(model="residual", width=width, depth=1) for width in WIDTHS]
    shares = [_costs(_network(config, shape), shape).macs() / shape.macs() for config in plain]
    fitting = [width for width, share in zip(WIDTHS, shares, strict=True) if SMALLEST_SHARE <= share <= LARGEST_SHARE]
    if fitting:
        return tuple(fitting)
    nearest = min(range(len(WIDTHS)), key=lambda place: abs(math.log(shares[place])))
    return (WIDTHS[nearest],)


@lru_cache(maxsize=64)
def _backbone_of(name: str, stride: int, image: tuple[int, int], channels: int) -> tuple[OtherShape, int]:
    """What a timm network costs up to the map of that stride, and the map's width."""
    import torch

    from sousvit.spaces.techniques.students.detection import timm_backbone

    with torch.random.fork_rng(devices=[]):
        backbone, width = timm_backbone(name, stride, channels, pretrained=False)
        found = shape_of(backbone.eval(), name, image, channels, 0)
    assert isinstance(found, OtherShape)
    return found, width


@lru_cache(maxsize=64)
def _shape_of(name: str, image: tuple[int, int], patch: tuple[int, int], channels: int, classes: int) -> NetworkShape:
    import torch

    with torch.random.fork_rng(devices=[]):
        try:
            return shape_of(named.build(name, image, patch, channels, classes).eval(), name, image, channels, classes)
        except TrialError as error:
            raise UserError("a student must suit the images", str(error), "choose another student") from error
        except Exception as error:  # a network whose strides leave nothing of a small image
            raise UserError(
                "a student must suit the images", f"{name}: {type(error).__name__}", "choose another student"
            ) from error
