"""Analytic shapes of a plain timm VisionTransformer: parameters and MACs without running it.

A :class:`VitShape` answers in microseconds what a gate asks before anything is built. Techniques map shapes
to shapes; ``VitShape.of(model)`` reads the shape of a real model, and the two must agree exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sousvit.common.errors import UserError

if TYPE_CHECKING:
    from timm.models.vision_transformer import Block, VisionTransformer
    from torch import nn


#: Iterations of the pseudo-inverse in Nystrom attention.
PINV_STEPS = 6


@dataclass(frozen=True)
class BlockShape:
    """One transformer block.

    Attributes:
        heads: attention heads.
        head_dim: channels of one head.
        mlp: hidden width of the MLP.
        tokens_in: tokens that enter attention, prefix tokens included.
        tokens_mlp: tokens that enter the MLP; fewer where tokens are merged or dropped between the two.
        token_macs: MACs of the matrix products that choose those tokens.
        qkv_bias: whether the query-key-value projection has a bias.
        fc1_bias: whether the first MLP layer has a bias.
        ranks: of the linear layers ``qkv, proj, fc1, fc2`` where they are products of two; 0 means one full matrix.
        attention: ``softmax``, or the form that replaced it.
        landmarks: of Nystrom attention.
        conv_tokens: patches that a depthwise 3 x 3 convolution of the values reads (focused linear attention).
        width_params: parameters per embedding channel (norms, layer scales, output biases).
        other_params: parameters that no technique resizes.
    """

    heads: int
    head_dim: int
    mlp: int
    tokens_in: int
    tokens_mlp: int
    token_macs: int = 0
    qkv_bias: bool = True
    fc1_bias: bool = True
    ranks: tuple[int, int, int, int] = (0, 0, 0, 0)
    attention: str = "softmax"
    landmarks: int = 0
    conv_tokens: int = 0
    width_params: int = 0
    other_params: int = 0

    @property
    def attn_dim(self) -> int:
        """Channels of all heads together."""
        return self.heads * self.head_dim

    def layer_weights(self, embed_dim: int) -> tuple[int, int, int, int]:
        """Weights of ``qkv, proj, fc1, fc2``; also their MACs per token."""
        sizes = (
            (embed_dim, 3 * self.attn_dim),
            (self.attn_dim, embed_dim),
            (embed_dim, self.mlp),
            (self.mlp, embed_dim),
        )
        qkv, proj, fc1, fc2 = (
            rank * (inputs + outputs) if rank else inputs * outputs
            for rank, (inputs, outputs) in zip(self.ranks, sizes, strict=True)
        )
        return qkv, proj, fc1, fc2

    def matrix_weights(self, embed_dim: int) -> int:
        """Weights of the four linear layers."""
        return sum(self.layer_weights(embed_dim))

    def params(self, embed_dim: int) -> int:
        """All parameters of the block."""
        biases = 3 * self.attn_dim * self.qkv_bias + self.mlp * self.fc1_bias
        return self.matrix_weights(embed_dim) + biases + self.width_params * embed_dim + self.other_params

    def macs(self, embed_dim: int) -> int:
        """Multiply-accumulates of the block for one image."""
        qkv, proj, fc1, fc2 = self.layer_weights(embed_dim)
        attention = attention_macs(self.attention, self.tokens_in, self.heads, self.head_dim, self.landmarks)
        attention += 9 * self.conv_tokens * self.attn_dim
        return self.tokens_in * (qkv + proj) + attention + self.token_macs + self.tokens_mlp * (fc1 + fc2)


def attention_macs(kind: str, tokens: int, heads: int, head_dim: int, landmarks: int = 0) -> int:
    """MACs of the matrix products between queries, keys and values; see :mod:`sousvit.spaces.attention`."""
    quadratic = 2 * tokens * tokens * head_dim
    linear = 2 * tokens * head_dim * head_dim
    if kind == "softmax":
        return heads * quadratic
    if kind == "sima":
        return heads * min(quadratic, linear)
    if kind == "focused":
        return heads * (linear + tokens * head_dim)
    if landmarks >= tokens:
        return heads * quadratic
    inverse = PINV_STEPS * 4 * landmarks**3
    return heads * (inverse + 6 * tokens * landmarks * head_dim + 2 * landmarks**2 * head_dim)


@dataclass(frozen=True)
class VitShape:
    """A whole plain VisionTransformer (ViT, DeiT, DeiT-III, CLIP image towers, register and distilled variants).

    Attributes:
        image: (height, width) in pixels.
        channels: of the image.
        patch: (height, width) in pixels.
        embed_dim: channels of a token.
        num_prefix_tokens: class, distillation and register tokens.
        num_position_tokens: prefix tokens that have a position embedding, or None when nothing has one.
        num_classes: outputs of a classifier.
        num_classifiers: 1, 2 for a distilled DeiT, 0 without a head.
        pool: what the classifier reads: ``token``, ``avg``, ``avgmax``, ``max``, or empty for all tokens.
        width_params: parameters per embedding channel outside blocks, patch weights and position embedding.
        other_params: parameters outside blocks that no technique resizes (classifier biases).
        blocks: in order.
        dropped: patches that are embedded but never become tokens.
    """

    image: tuple[int, int]
    channels: int
    patch: tuple[int, int]
    embed_dim: int
    num_prefix_tokens: int
    num_position_tokens: int | None
    num_classes: int
    num_classifiers: int
    pool: str
    other_params: int
    blocks: tuple[BlockShape, ...]
    width_params: int = 0
    dropped: int = 0

    @classmethod
    def of(cls, model: nn.Module) -> VitShape:
        """The shape of ``model``.

        Raises:
            UserError: it is no plain VisionTransformer.
        """
        reason = unsupported_reason(model)
        if reason is not None:
            raise UserError(
                "the model must be a plain timm VisionTransformer",
                f"{type(model).__name__}: {reason}",
                "choose a vit_* or deit* model",
            )
        return _read_shape(model)

    @property
    def normalises_heads(self) -> bool:
        """Whether queries and keys are normalised (parameters of the width of a head)."""
        return any(block.other_params for block in self.blocks if block.attention != "focused")

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        return self.image[0] // self.patch[0], self.image[1] // self.patch[1]

    @property
    def num_patches(self) -> int:
        """Patch tokens of one image."""
        return self.grid[0] * self.grid[1]

    @property
    def num_tokens(self) -> int:
        """Tokens that enter the first block."""
        return self.num_patches - self.dropped + self.num_prefix_tokens

    @property
    def reduces_tokens(self) -> bool:
        """Whether some block has fewer tokens than the first."""
        return self.dropped > 0 or any(block.tokens_mlp != self.num_tokens for block in self.blocks)

    def matrix_weights(self) -> int:
        """Weights of all linear layers and convolutions, without biases; what quantization shrinks."""
        return (
            self._patch_weights
            + sum(block.matrix_weights(self.embed_dim) for block in self.blocks)
            + self.num_classifiers * self.num_classes * self.embed_dim
        )

    def params(self) -> int:
        """Number of parameters; equals ``sum(p.numel() for p in model.parameters())``."""
        blocks = sum(block.params(self.embed_dim) for block in self.blocks)
        classifiers = self.num_classifiers * self.num_classes * self.embed_dim
        own = self.width_params * self.embed_dim + self.other_params
        return self._patch_weights + self._position_params + blocks + classifiers + own

    def macs(self) -> int:
        """Multiply-accumulates of one image in matrix products and convolutions."""
        blocks = sum(block.macs(self.embed_dim) for block in self.blocks)
        head = self.num_classifiers * self.num_classes * self.embed_dim
        if self.pool == "":
            head *= self.blocks[-1].tokens_mlp if self.blocks else self.num_tokens
        return self.num_patches * self._patch_weights + blocks + head

    def with_patch(self, patch: tuple[int, int]) -> VitShape:
        """The same network reading patches of another size.

        Raises:
            UserError: the patches do not tile the image, or tokens are reduced already.
        """
        if any(size % part for size, part in zip(self.image, patch, strict=True)):
            raise UserError(
                "patches must tile the image",
                f"{patch[0]}x{patch[1]} px in {self.image[0]}x{self.image[1]} px",
                "choose a divisor of the image size",
            )
        _require_all_tokens(self)
        tokens = replace(self, patch=patch).num_tokens
        blocks = tuple(replace(block, tokens_in=tokens, tokens_mlp=tokens) for block in self.blocks)
        return replace(self, patch=patch, blocks=blocks)

    def with_dropped(self, dropped: int) -> VitShape:
        """The same network with ``dropped`` patches left out before the first block.

        Raises:
            UserError: tokens are reduced already.
        """
        _require_all_tokens(self)
        tokens = replace(self, dropped=dropped).num_tokens
        blocks = tuple(replace(block, tokens_in=tokens, tokens_mlp=tokens) for block in self.blocks)
        return replace(self, dropped=dropped, blocks=blocks)

    def with_blocks(self, blocks: Iterable[BlockShape]) -> VitShape:
        """The same network with other blocks."""
        return replace(self, blocks=tuple(blocks))

    def with_tokens(self, tokens_mlp: Iterable[int], token_macs: Iterable[int]) -> VitShape:
        """The same network with ``tokens_mlp[i]`` tokens left after block i's attention.

        Raises:
            UserError: tokens are reduced already.
        """
        _require_all_tokens(self)
        current, blocks = self.num_tokens, []
        for block, left, macs in zip(self.blocks, tokens_mlp, token_macs, strict=True):
            blocks.append(replace(block, tokens_in=current, tokens_mlp=left, token_macs=macs))
            current = left
        return self.with_blocks(blocks)

    @property
    def _patch_weights(self) -> int:
        return self.embed_dim * self.channels * self.patch[0] * self.patch[1]

    @property
    def _position_params(self) -> int:
        if self.num_position_tokens is None:
            return 0
        return (self.num_patches + self.num_position_tokens) * self.embed_dim


@dataclass(frozen=True)
class OtherShape:
    """A network that is no plain VisionTransformer: what is known of it as a whole.

    Attributes:
        name: of the architecture.
        image: (height, width) in pixels.
        channels: of the image.
        num_classes: outputs of the classifier.
        num_params: all parameters.
        num_macs: multiply-accumulates of one image.
        num_matrix_weights: weights of linear layers and convolutions.
    """

    name: str
    image: tuple[int, int]
    channels: int
    num_classes: int
    num_params: int
    num_macs: int
    num_matrix_weights: int

    def params(self) -> int:
        """Number of parameters."""
        return self.num_params

    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return self.num_macs

    def matrix_weights(self) -> int:
        """Weights of linear layers and convolutions."""
        return self.num_matrix_weights


#: What a recipe starts from or leaves: a plain Vision Transformer, or something else.
ModelShape = VitShape | OtherShape


def read_shape(plain: Mapping[str, Any]) -> ModelShape:
    """The inverse of ``dataclasses.asdict`` on either shape.

    Raises:
        pydantic.ValidationError: it is neither.
    """
    from pydantic import TypeAdapter

    kind: Any = OtherShape if "num_macs" in plain else VitShape
    shape: ModelShape = TypeAdapter(kind).validate_python(plain)
    return shape


def shape_of(model: nn.Module, name: str, image: tuple[int, int], channels: int, num_classes: int) -> ModelShape:
    """The shape of any network that takes ``[B, channels, *image]``.

    Raises:
        TrialError: it cannot be traced.
    """
    if unsupported_reason(model) is None:
        return VitShape.of(model)
    macs = macs_of(model, (channels, *image))
    sizes = [(parameter.numel(), parameter.ndim > 1) for parameter in model.parameters()]
    weights = sum(size for size, is_matrix in sizes if is_matrix)
    return OtherShape(name, image, channels, num_classes, sum(size for size, _ in sizes), macs, weights)


def _require_all_tokens(shape: VitShape) -> None:
    if shape.reduces_tokens:
        raise UserError("tokens are reduced by one step only, after the patches", "a second one", "drop a step")


def unsupported_reason(model: Any) -> str | None:
    """Why ``model`` is no plain VisionTransformer (one phrase), or None if it is one."""
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.vision_transformer import VisionTransformer

    if type(model) not in (VisionTransformer, VisionTransformerDistilled):
        return "another architecture"
    for check in (_patch_reason, _head_reason):
        reason = check(model)
        if reason is not None:
            return reason
    return next((reason for reason in map(_block_reason, model.blocks) if reason is not None), None)


def _patch_reason(model: VisionTransformer) -> str | None:
    from timm.layers import PatchEmbed
    from torch import nn

    embed = model.patch_embed
    if type(embed) is not PatchEmbed or not isinstance(embed.proj, nn.Conv2d):
        return f"patch embedding {type(embed).__name__}"
    if embed.img_size is None:
        return "no fixed image size"
    if any(size % part for size, part in zip(embed.img_size, embed.patch_size, strict=True)):
        return "patches that do not tile the image"
    return None


def _head_reason(model: VisionTransformer) -> str | None:
    from torch import nn

    if getattr(model, "attn_pool", None) is not None:
        return "attention pooling"
    heads = (model.head, getattr(model, "head_dist", nn.Identity()))
    if not all(isinstance(head, (nn.Linear, nn.Identity)) for head in heads):
        return f"classifier {type(model.head).__name__}"
    return None


def _block_reason(block: Block) -> str | None:
    from timm.layers import Attention, Mlp
    from timm.models.vision_transformer import Block
    from torch import nn

    from sousvit.spaces.attention import EfficientAttention
    from sousvit.spaces.lowrank import LowRankLinear
    from sousvit.spaces.quantized import QuantLinear

    if type(block) is not Block:
        return f"blocks of type {type(block).__name__}"
    if type(block.attn) not in (Attention, EfficientAttention):
        return f"attention of type {type(block.attn).__name__}"
    if type(block.mlp) is not Mlp or not isinstance(block.mlp.fc1, (nn.Linear, LowRankLinear, QuantLinear)):
        return f"MLP of type {type(block.mlp).__name__}"
    if getattr(block.attn, "gate", None) is not None:
        return "gated attention"
    inner_norms = (getattr(block.attn, "norm", nn.Identity()), getattr(block.mlp, "norm", nn.Identity()))
    if not all(isinstance(norm, nn.Identity) for norm in inner_norms):
        return "norms inside attention or MLP (scale_norm)"
    return None


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _read_shape(model: VisionTransformer) -> VitShape:
    from torch import nn

    embed = model.patch_embed
    classifiers = [head for head in (model.head, getattr(model, "head_dist", None)) if isinstance(head, nn.Linear)]
    position = None if model.pos_embed is None else model.pos_embed.shape[1] - embed.num_patches
    shape = VitShape(
        image=(int(embed.img_size[0]), int(embed.img_size[1])),
        channels=embed.proj.in_channels,
        patch=(int(embed.patch_size[0]), int(embed.patch_size[1])),
        embed_dim=model.embed_dim,
        num_prefix_tokens=model.num_prefix_tokens,
        num_position_tokens=position,
        num_classes=classifiers[0].out_features if classifiers else 0,
        num_classifiers=len(classifiers),
        pool=model.global_pool,
        other_params=0,
        blocks=(),
    )
    kept = getattr(model.patch_drop, "count", shape.num_patches)  # the contract of techniques/drop_patches.py
    shape = replace(shape, dropped=shape.num_patches - kept)
    tokens = shape.num_tokens
    own = [embed.proj.bias, *(getattr(model, name, None) for name in ("cls_token", "reg_token", "dist_token"))]
    norms = [getattr(model, name, None) for name in ("norm_pre", "norm", "fc_norm")]
    shape = replace(shape, width_params=_per_channel([*own, *norms], model.embed_dim))
    shape = shape.with_blocks(_read_block(block, tokens) for block in model.blocks)
    if getattr(model.blocks, "norm", None) is not None:  # the final norm moved in there
        shape = replace(shape, width_params=shape.width_params + _per_channel([model.blocks.norm], model.embed_dim))
    shape = replace(shape, other_params=_count(model) - shape.params() - _step_sizes(model))
    reduction = getattr(model.blocks, "token_plan", None)  # the contract of techniques/token_blocks.py
    return shape if reduction is None else shape.with_tokens(*reduction(shape))


def _per_channel(parts: Iterable[nn.Module | nn.Parameter | None], width: int) -> int:
    """Parameters of ``parts`` per embedding channel."""
    from torch import nn

    sizes = [_count(part) if isinstance(part, nn.Module) else part.numel() for part in parts if part is not None]
    return sum(sizes) // width


def _step_sizes(model: nn.Module) -> int:
    """Scales of quantized layers are bookkeeping, not parameters of the network."""
    from sousvit.spaces.quantized import QuantLinear

    found = [module for module in model.modules() if isinstance(module, QuantLinear)]
    return sum(module.weight_scale.numel() + module.act_scale.numel() for module in found)


def _read_block(block: Block, tokens: int) -> BlockShape:
    from sousvit.spaces.lowrank import rank_of

    attention, mlp = block.attn, block.mlp
    width = attention.qkv.in_features
    kind = getattr(attention, "kind", "softmax")
    grid = getattr(attention, "grid", (0, 0))
    layers = (attention.qkv, attention.proj, mlp.fc1, mlp.fc2)
    qkv, proj, fc1, fc2 = (rank_of(layer) for layer in layers)
    per_channel = [block.norm1, block.norm2, block.ls1, block.ls2, attention.proj.bias, mlp.fc2.bias]
    shape = BlockShape(
        heads=attention.num_heads,
        head_dim=attention.head_dim,
        mlp=mlp.fc1.out_features,
        tokens_in=tokens,
        tokens_mlp=tokens,
        qkv_bias=attention.qkv.bias is not None,
        fc1_bias=mlp.fc1.bias is not None,
        ranks=(qkv, proj, fc1, fc2),
        attention=kind,
        landmarks=getattr(attention, "landmarks", 0),
        conv_tokens=grid[0] * grid[1] if kind == "focused" else 0,
        width_params=_per_channel(per_channel, width),
    )
    return replace(shape, other_params=_count(block) - _step_sizes(block) - shape.params(width))


def macs_of(model: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of one image ``(channels, height, width)`` through any module, by running it once.

    Counts matrix products and convolutions. Fused attention is run by its plain form, whose products are
    counted; the CPU's fused kernel would go uncounted.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    was_training = model.training
    model.eval()
    parameter = next(model.parameters(), torch.zeros(()))
    image = torch.zeros(1, *input_shape, device=parameter.device, dtype=parameter.dtype)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(image)
    model.train(was_training)
    return int(counter.get_total_flops()) // 2
