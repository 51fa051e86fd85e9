"""Convolutional networks of any size for any image: stages whose strides follow from the image.

A stem halves the image, and stages halve it on until the last map is 4 to 8 pixels wide; each stage is twice as wide as
the one before it, up to eight times the first. For instance ``residual`` of width 24 on 32 x 32 pixels: a stem to 16
pixels, then stages of 24, 48 and 96 channels at 16, 8 and 4 pixels. The blocks are timm's; what a network costs is
counted here without building it.

| family | blocks | source |
|---|---|---|
| ``residual`` | two 3 x 3 convolutions beside a shortcut | ResNet (arXiv 1512.03385) |
| ``repvgg`` | 3 x 3, trained beside a 1 x 1 and an identity that are folded into it | RepVGG (2101.03697) |
| ``inverted`` | 1 x 1 to four times the width, 3 x 3 depthwise, 1 x 1 back | MobileNetV2 (1801.04381) |
| ``hybrid`` | 3 x 3 to twice the width, 1 x 1 back; attention over the last map | MobileNetV4 (2404.10518) |
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sousvit.errors import UnknownNameError, UserError
from sousvit.spaces.shape import OtherShape

if TYPE_CHECKING:
    from torch import nn

FAMILIES = ("residual", "repvgg", "inverted", "hybrid")
#: The last map is at least so many pixels wide, and at most twice as many.
LAST_MAP = 4
#: The smaller side of an image that can be halved once before that.
SMALLEST_IMAGE = 2 * LAST_MAP
#: Stages beyond which they get no wider.
WIDEST = 8
#: Widths are multiples of it, as timm's blocks round them.
WIDTH_UNIT = 8
#: Heads of the attention of a hybrid, which share one key and one value.
HEADS = 4
EXPANSION = {"inverted": 4, "hybrid": 2}


@dataclass(frozen=True)
class Network:
    """One of the family, for an image.

    Args:
        family: one of :data:`FAMILIES`.
        width: channels of the first stage, a multiple of :data:`WIDTH_UNIT`.
        depth: blocks of every stage.
        image: (height, width) in pixels, at least :data:`SMALLEST_IMAGE`.
        channels: of the image.
        num_classes: outputs of the classifier; 0 where another head reads the last map.
        reach: stride of the last map, a power of two from 4 on; by default it follows from the image.
    """

    family: str
    width: int
    depth: int
    image: tuple[int, int]
    channels: int
    num_classes: int
    reach: int | None = None

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the stages; the stem has 2 besides."""
        halvings = int(math.log2(min(self.image) // LAST_MAP if self.reach is None else self.reach))
        if halvings == 1:
            return (1, 1)
        # The first stage works at half the resolution; of large images at a quarter.
        return (1, *(2,) * (halvings - 1)) if halvings < 5 else (2,) * (halvings - 1)

    @property
    def stride(self) -> int:
        """Of the last map."""
        return 2 * math.prod(self.strides)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the stages."""
        return tuple(self.width * min(2**stage, WIDEST) for stage in range(len(self.strides)))

    def build(self) -> nn.Module:
        """The network with random weights from torch's generator."""
        return _build_byob(self) if self.family in ("residual", "repvgg") else _build_efficient(self)

    def shape(self) -> OtherShape:
        """What it costs once it is deployed, as :func:`sousvit.spaces.module_shape.shape_of` would read it."""
        return _count(self)


def network(
    family: str = "residual",
    width: int = 64,
    depth: int = 1,
    img_size: int | tuple[int, int] = 32,
    in_chans: int = 3,
    num_classes: int = 10,
) -> nn.Module:
    """A network of the family as a model of its own, to train and compress or to teach: ``model: {factory:
    "sousvit.spaces.techniques.students.convolutional:network", args: {width: 64}}``.

    Raises:
        UserError: no such family, a width that is no multiple of 8, or an image that is too small.
    """
    if family not in FAMILIES:
        raise UnknownNameError("family of convolutional networks", family, FAMILIES)
    image = (img_size, img_size) if isinstance(img_size, int) else (img_size[0], img_size[1])
    if width % WIDTH_UNIT or min(image) < SMALLEST_IMAGE:
        rule = f"width is a multiple of {WIDTH_UNIT}, and img_size at least {SMALLEST_IMAGE}"
        raise UserError(rule, f"width {width}, img_size {img_size}", "correct model.args")
    module = Network(family, width, depth, image, in_chans, num_classes).build()
    module.pretrained_cfg = {"input_size": (in_chans, *image)}  # type: ignore[assignment]
    return module


def _build_byob(network: Network) -> nn.Module:
    from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg

    kind, stem = ("basic", "3x3") if network.family == "residual" else ("rep", "rep")
    stages = tuple(
        ByoBlockCfg(type=kind, d=network.depth, c=width, s=stride, gs=0, br=1.0)
        for width, stride in zip(network.widths, network.strides, strict=True)
    )
    plan = ByoModelCfg(blocks=stages, stem_type=stem, stem_chs=network.width, stem_pool="")
    return ByobNet(plan, network.num_classes, network.channels, output_stride=network.stride)


def _build_efficient(network: Network) -> nn.Module:
    from timm.models._efficientnet_builder import decode_arch_def
    from timm.models.efficientnet import EfficientNet

    depth, stages = network.depth, list(zip(network.widths, network.strides, strict=True))
    kind = {"inverted": "ir", "hybrid": "er"}[network.family]
    code = [[f"{kind}_r{depth}_k3_s{stride}_e{EXPANSION[network.family]}_c{width}"] for width, stride in stages]
    if network.family == "hybrid":
        last, stride = stages[-1]
        attention = f"mqa_r1_k3_h{HEADS}_s1_d{last // HEADS}_c{last}"
        code[-1] = [f"ir_r1_k3_s{stride}_e4_c{last}", *[attention, f"uir_r1_a0_k0_s1_e2_c{last}"] * depth]
    return EfficientNet(
        decode_arch_def(code), network.num_classes, num_features=0, in_chans=network.channels,
        stem_size=network.width, output_stride=network.stride, round_chs_fn=_as_given,
    )  # fmt: skip


def _as_given(channels: float, *_: Any, **__: Any) -> int:
    return int(channels)


class _Tally:
    """Adds up what layers cost.

    Args:
        image: (height, width) that the first layer reads.
        is_fused: whether norms are folded into convolutions, which leaves a bias.
    """

    def __init__(self, image: tuple[int, int], is_fused: bool) -> None:
        self.map, self._fused = image, is_fused
        self.weights = self.vectors = self.macs = 0

    def conv(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        """A convolution with its norm; later layers read its map."""
        self.map = (math.ceil(self.map[0] / stride), math.ceil(self.map[1] / stride))
        self.product(kernel * kernel * (inputs // groups) * outputs)
        self.vectors += outputs if self._fused else 2 * outputs

    def product(self, weights: int) -> None:
        """Weights that every pixel of the map is multiplied with."""
        self.weights += weights
        self.macs += weights * self.map[0] * self.map[1]


@lru_cache(maxsize=4096)
def _count(network: Network) -> OtherShape:
    tally = _Tally(network.image, is_fused=network.family == "repvgg")
    tally.conv(network.channels, network.width, 3, 2)
    last = len(network.widths) - 1
    for stage, inputs, outputs, stride in _blocks(network):
        if network.family == "residual":
            before = tally.map
            if stride > 1 or inputs != outputs:
                tally.conv(inputs, outputs, 1, stride)
                tally.map = before
            tally.conv(inputs, outputs, 3, stride)
            tally.conv(outputs, outputs, 3)
        elif network.family == "repvgg":
            tally.conv(inputs, outputs, 3, stride)
        elif network.family == "inverted":
            _count_inverted(tally, inputs, outputs, stride)
        elif stage < last:
            middle = EXPANSION["hybrid"] * inputs
            tally.conv(inputs, middle, 3, stride)
            tally.conv(middle, outputs)
        else:
            _count_last_stage(tally, inputs, outputs, stride, network.depth)
    classifier = network.widths[-1] * network.num_classes
    weights = tally.weights + classifier
    return OtherShape(
        f"{network.family} {network.width}x{network.depth}", network.image, network.channels, network.num_classes,
        weights + tally.vectors + network.num_classes, tally.macs + classifier, weights, 0,
    )  # fmt: skip


def _blocks(network: Network) -> Iterator[tuple[int, int, int, int]]:
    """(stage, inputs, outputs, stride) of every block; a hybrid's last stage is one."""
    inputs = network.width
    for stage, (outputs, stride) in enumerate(zip(network.widths, network.strides, strict=True)):
        whole = network.family == "hybrid" and stage == len(network.widths) - 1
        for block in range(1 if whole else network.depth):
            yield stage, inputs, outputs, stride if block == 0 else 1
            inputs = outputs


def _count_inverted(tally: _Tally, inputs: int, outputs: int, stride: int) -> None:
    middle = EXPANSION["inverted"] * inputs
    tally.conv(inputs, middle)
    tally.conv(middle, middle, 3, stride, groups=middle)
    tally.conv(middle, outputs)


def _count_last_stage(tally: _Tally, inputs: int, outputs: int, stride: int, depth: int) -> None:
    """An inverted block, then ``depth`` times attention (of which only its input is normalised) and an MLP."""
    _count_inverted(tally, inputs, outputs, stride)
    tokens, head = tally.map[0] * tally.map[1], outputs // HEADS
    for _ in range(depth):
        tally.vectors += 2 * outputs
        tally.product(outputs * outputs + 2 * outputs * head + outputs * outputs)
        tally.macs += 2 * HEADS * tokens * tokens * head
        tally.conv(outputs, 2 * outputs)
        tally.conv(2 * outputs, outputs)
