"""Networks by name in the base's place: plain Vision Transformers of other shapes, and timm's, pretrained or not.

timm's networks of convolutions halve an image five times. Where that leaves less than four pixels of an image below
96 px, their first strides are set to 1, stem first: ``repvit_m0_9`` on 32 x 32 px ends in 4 x 4 rather than in one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sousvit.errors import TrialError, UnknownNameError, UserError
from sousvit.spaces.techniques.students.convolutional import FAMILIES, LAST_MAP

if TYPE_CHECKING:
    from torch import nn

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
#: Families whose constructor wants the image size.
SIZED = frozenset(
    {"vision_transformer", "deit", "levit", "swin_transformer", "efficientvit_msra", "efficientformer_v2"}
)
#: From this side on, images are large enough for timm's strides.
LARGE = 96


def module_of(name: str) -> str:
    """The module of timm that makes a model.

    Raises:
        UnknownNameError: there is no such model.
    """
    import timm

    if not timm.is_model(name):
        raise UnknownNameError("student", name, [*FAMILIES, *PLAIN, *timm.list_models()])
    return str(timm.models.model_entrypoint(name).__module__).rsplit(".", 1)[-1]


def build(
    name: str, image: tuple[int, int], patch: tuple[int, int], channels: int, classes: int, pretrained: bool = False
) -> nn.Module:
    """The network with random weights from torch's generator, or with those of timm's hub and a new classifier.

    Raises:
        UnknownNameError: no such network.
        UserError: pretrained weights cannot be had.
        TrialError: timm cannot build it for this image.
    """
    import timm

    if name in PLAIN:
        width, depth, heads = PLAIN[name]
        return timm.create_model(
            "vit_tiny_patch16_224", img_size=image, patch_size=patch, in_chans=channels, num_classes=classes,
            embed_dim=width, depth=depth, num_heads=heads, class_token=False, global_pool="avg",
        )  # fmt: skip
    args: dict[str, Any] = {"in_chans": channels, "num_classes": classes}
    args |= {"img_size": image} if module_of(name) in SIZED else {}
    if pretrained:
        from sousvit.models.load import create
        from sousvit.specs import ModelSpec

        made = create(ModelSpec(name=name, args=args, pretrained=True))
    else:
        try:
            made = timm.create_model(name, **args)
        except Exception as error:  # timm checks little: errors of any kind mean that the image does not suit
            raise TrialError(f"{name} cannot be built for {image[0]}x{image[1]} px: {type(error).__name__}") from error
    return made if "img_size" in args or min(image) >= LARGE else _with_small_strides(made, image, channels)


def _with_small_strides(model: nn.Module, image: tuple[int, int], channels: int) -> nn.Module:
    """``model`` with its first strides at 1, as few as leave a map of :data:`LAST_MAP` pixels; as it is if none do."""
    from torch import nn

    strided = [part for part in model.modules() if isinstance(part, nn.Conv2d) and part.stride == (2, 2)]
    changed: list[nn.Conv2d] = []
    while (seen := _last_map(model, image, channels)) < LAST_MAP and strided:
        if seen == 0 and changed:
            break
        changed.append(strided.pop(0))
        changed[-1].stride = (1, 1)
    if changed and _last_map(model, image, channels) < LAST_MAP:
        for part in changed:
            part.stride = (2, 2)
    return model


def _last_map(model: Any, image: tuple[int, int], channels: int) -> int:
    """The smaller side of what the classifier pools; 0 where the image does not pass."""
    import torch

    was_training = model.training
    try:
        with torch.no_grad():
            found = model.eval().forward_features(torch.zeros(1, channels, *image))
    except Exception:  # strides that leave nothing, or branches of different sizes
        return 0
    finally:
        model.train(was_training)
    return min(found.shape[2:]) if found.ndim == 4 else LAST_MAP


def fill_backbone(model: nn.Module, source: str) -> None:
    """Load the weights of a checkpoint of the whole network into ``model``, which has its first layers only.

    Raises:
        UserError: nothing there, or weights of another network.
    """
    from sousvit.models.checkpoints.forms import open_source
    from sousvit.models.load import fill

    own = model.state_dict()
    fill(
        model, {name: value for name, value in open_source(source).tensors().items() if name in own}, Path(source).name
    )


def fill_from(model: nn.Module, source: str) -> None:
    """Load the weights of a checkpoint of any form; a classifier of other classes stays as it is.

    Raises:
        UserError: nothing there, or weights of another network.
    """
    from sousvit.models.checkpoints.forms import open_source
    from sousvit.models.load import fill

    tensors = open_source(source).tensors()
    classifier: Any = model.get_classifier()  # type: ignore[operator]
    own = {id(value) for value in classifier.parameters()}
    for name, value in model.named_parameters():
        if id(value) in own and (name not in tensors or tensors[name].shape != value.shape):
            tensors[name] = value.detach()
    fill(model, tensors, Path(source).name)


def require_one_source(model: str, pretrained: bool, checkpoint: str | None) -> None:
    """Check that weights come from one place that has some.

    Raises:
        UserError: they do not.
    """
    if pretrained and checkpoint is not None:
        rule = "a student's weights come from one place"
        raise UserError(rule, "pretrained: true and a checkpoint", "remove one of the two")
    if pretrained and (model in FAMILIES or model in PLAIN):
        rule = "timm's own networks are pretrained"
        raise UserError(rule, f"model: {model}", "remove pretrained, or name one of timm's")
