"""A Vision Transformer that detects: timm's plain ViT with a :class:`DetectionHead` in place of its classifier.

Everything before the head is timm's own module, so a technique that changes blocks, widths or patches of a classifier
changes a detector's backbone the same way. The head is ViTDet's simple feature pyramid (Li et al., arXiv 2203.16527)
under torchvision's FCOS (Tian et al., arXiv 1904.01355, 2006.09214), with two deviations that keep a small model small:
channels are reduced before the pyramid instead of behind it, and the maps are returned as one tensor.

The output is *dense*, ``[B, positions, classes + 5]``: class logits, distances to the four sides (left, top, right,
bottom, in units of the stride) and the centerness logit of every position, levels one after the other. Thresholds and
non-maximum suppression (:meth:`DetectionHead.detections`) are not exported: they sort and branch, which runtimes do no
faster than torchvision, int8 would make less accurate, and fixed output shapes do not allow.
"""

from __future__ import annotations

from functools import cached_property
from math import log2
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from sousvit.data.detection import Objects
from sousvit.errors import UserError

if TYPE_CHECKING:
    from sousvit.specs import DetectorSpec

#: Values of a position besides the class logits: four sides and centerness.
EXTRA = 5
#: Boxes kept of one image (COCO's metric reads 100), and candidates of one level that enter suppression.
MOST_BOXES = 100
CANDIDATES = 300

#: Score from which a predicted box counts as an object where there are no labels.
SURE = 0.4

#: Boxes ``[n, 4]`` (x1, y1, x2, y2 in pixels), ``labels [n]``, ``scores [n]``: torchvision's form.
Detections = dict[str, torch.Tensor]


class SimplePyramid(nn.Module):
    """Maps of several strides from one map of the backbone: transposed convolutions up, max pooling down.

    Args:
        channels: of every map.
        patch: stride of the given map in pixels.
        strides: of the maps to make; ``patch`` times or divided by a power of two.
    """

    def __init__(self, channels: int, patch: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.out_channels = channels  # torchvision asks for it
        self.levels = nn.ModuleList(_level(channels, patch, stride) for stride in strides)

    def forward(self, features: torch.Tensor) -> list[torch.Tensor]:
        """``[B, channels, rows, columns]`` to one map a level."""
        return [level(features) for level in self.levels]


def _level(channels: int, patch: int, stride: int) -> nn.Sequential:
    steps = log2(stride / patch)
    if steps != int(steps):
        raise UserError(
            "a detector's strides are the patch size times a power of two",
            f"stride {stride} for patches of {patch}",
            "correct model.detector.strides",
        )
    parts: list[nn.Module] = []
    for _ in range(int(-steps)):
        parts += [nn.ConvTranspose2d(channels, channels, 2, 2), nn.GELU()]
    if steps > 0:
        parts.append(nn.MaxPool2d(2 ** int(steps)))
    return nn.Sequential(*parts, nn.Conv2d(channels, channels, 3, padding=1, bias=False), _norm(channels))


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)


class DetectionHead(nn.Module):
    """The layers from the tokens of a ViT to dense predictions, at ``model.head``.

    Args:
        embed_dim: channels of a token.
        num_prefix: tokens before the patches.
        image: (height, width) in pixels.
        patch: side of a patch in pixels.
        num_classes: without background.
        spec: channels, strides, convolutions and thresholds.

    Attributes:
        reduce: the one layer that reads the backbone's width.
        grid: (rows, columns) of the patches that come in; where it differs from ``own_grid``, for which the pyramid
            was made, the map is resized.
    """

    anchors: torch.Tensor

    def __init__(
        self,
        embed_dim: int,
        num_prefix: int,
        image: tuple[int, int],
        patch: int,
        num_classes: int,
        spec: DetectorSpec,
    ) -> None:
        super().__init__()
        from torchvision.models.detection.anchor_utils import AnchorGenerator
        from torchvision.models.detection.fcos import FCOS, FCOSHead

        self.num_prefix, self.num_classes, self.image = num_prefix, num_classes, image
        self.own_grid = self.grid = (image[0] // patch, image[1] // patch)
        self.reduce = nn.Linear(embed_dim, spec.channels)
        pyramid = SimplePyramid(spec.channels, patch, spec.strides)
        sizes = tuple((stride,) for stride in spec.strides)
        # Used for its parts (head, loss, decoding); its own forward resizes and normalises images.
        self.fcos = FCOS(
            pyramid,
            num_classes,
            anchor_generator=AnchorGenerator(sizes, ((1.0,),) * len(sizes)),
            head=FCOSHead(spec.channels, 1, num_classes, spec.convs),
            score_thresh=spec.score_threshold,
            nms_thresh=spec.nms_threshold,
            detections_per_img=MOST_BOXES,
            topk_candidates=CANDIDATES,
        )
        with torch.no_grad():
            maps = pyramid(torch.zeros(1, spec.channels, *self.own_grid))
        self.level_sizes = [part.shape[2] * part.shape[3] for part in maps]
        self.register_buffer("anchors", _anchors(self.fcos, image, maps), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens ``[B, prefix + patches, D]`` to dense predictions ``[B, positions, classes + 5]``."""
        return self.dense(self.features(tokens))

    def features(self, tokens: torch.Tensor) -> torch.Tensor:
        """The map that the pyramid starts from, ``[B, channels, *own_grid]``."""
        found = self.reduce(tokens[:, self.num_prefix :]).transpose(1, 2)
        found = found.reshape(-1, self.reduce.out_features, *self.grid)  # not unflatten: tracing would fix the batch
        return found if self.grid == self.own_grid else F.interpolate(found, self.own_grid, mode="bilinear")

    def dense(self, features: torch.Tensor) -> torch.Tensor:
        """Dense predictions of a map."""
        found = self.fcos.head(self.fcos.backbone(features))
        return torch.cat([found["cls_logits"], found["bbox_regression"], found["bbox_ctrness"]], dim=2)

    def loss(self, dense: torch.Tensor, targets: list[dict[str, torch.Tensor]]) -> torch.Tensor:
        """FCOS's loss, a scalar: focal (classes) + GIoU (boxes) + centerness, each per matched position.

        Args:
            dense: ``[B, positions, classes + 5]``.
            targets: per image ``boxes [n, 4]`` in pixels and ``labels [n]``; n may be 0.
        """
        parts = _parts(dense.float())
        anchors = [self.anchors] * len(dense)
        losses = self.fcos.compute_loss(targets, parts, anchors, self.level_sizes)
        total: torch.Tensor = sum(losses.values())
        return total

    @torch.no_grad()
    def detections(self, dense: torch.Tensor) -> list[Detections]:
        """Boxes of each image, clipped to it, after thresholds and non-maximum suppression by class."""
        parts = {name: list(value.split(self.level_sizes, dim=1)) for name, value in _parts(dense.float()).items()}
        anchors = [list(self.anchors.split(self.level_sizes))] * len(dense)
        found: list[Detections] = self.fcos.postprocess_detections(parts, anchors, [self.image] * len(dense))
        return found

    @cached_property
    def dense_macs(self) -> int:
        """Multiply-accumulates of :meth:`dense` for one image; they do not depend on the backbone."""
        from torch.utils.flop_counter import FlopCounterMode

        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            self.dense(self.reduce.weight.new_zeros(1, self.reduce.out_features, *self.own_grid))
        return int(counter.get_total_flops()) // 2


def _parts(dense: torch.Tensor) -> dict[str, torch.Tensor]:
    """Dense predictions under torchvision's names."""
    classes = dense.shape[2] - EXTRA
    logits, sides, centre = dense.split([classes, 4, 1], dim=2)
    return {"cls_logits": logits, "bbox_regression": sides, "bbox_ctrness": centre}


def _anchors(fcos: Any, image: tuple[int, int], maps: list[torch.Tensor]) -> torch.Tensor:
    """One square of the stride's size at each position, ``[positions, 4]``."""
    from torchvision.models.detection.image_list import ImageList

    found: torch.Tensor = fcos.anchor_generator(ImageList(torch.zeros(1, 1, *image), [image]), maps)[0]
    return found


def attach_head(vit: Any, num_classes: int, spec: DetectorSpec) -> nn.Module:
    """``vit`` as a detector: its classifier is replaced by a :class:`DetectionHead` that reads all patch tokens.

    Args:
        vit: a plain timm VisionTransformer without classifier that returns all tokens (``global_pool=""``).

    Raises:
        UserError: another architecture, patches that are not square, or strides that do not suit them.
    """
    from timm.models.vision_transformer import VisionTransformer

    if type(vit) is not VisionTransformer or vit.patch_embed.img_size is None:
        raise UserError("a detector's backbone is a plain ViT", type(vit).__name__, "choose a vit_* or deit* model")
    patch, image = vit.patch_embed.patch_size, vit.patch_embed.img_size
    largest = max(spec.strides)
    if patch[0] != patch[1] or any(side % largest for side in image):
        raise UserError(
            "a detector has square patches, and its largest stride divides the image's sides",
            f"patches {patch}, stride {largest}, image {image}",
            "correct model.args or model.detector.strides",
        )
    vit.head = DetectionHead(vit.embed_dim, vit.num_prefix_tokens, tuple(image), patch[0], num_classes, spec)
    vit.num_classes = num_classes
    return vit


def sure_objects(found: Detections) -> Objects:
    """Predicted boxes with a high score as labels of images that have none (pseudo labels, STAC, arXiv 2005.04757)."""
    kept = found["scores"] >= SURE
    return Objects(found["boxes"][kept], found["labels"][kept])


def head_of(model: Any) -> DetectionHead | None:
    """The detection head of ``model``, or None if it is no detector."""
    head = getattr(model, "head", None)
    return head if isinstance(head, DetectionHead) else None
