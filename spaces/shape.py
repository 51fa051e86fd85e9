"""Analytic shapes of a plain timm VisionTransformer: parameters and MACs without running it.

A :class:`VitShape` answers in microseconds what a gate asks before anything is built. Techniques map shapes
to shapes; module_shape.py reads the shape of a real model, and the two must agree exactly.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sousvit.errors import UserError

#: Iterations of the pseudo-inverse in Nystrom attention.
PINV_STEPS = 6


@dataclass(frozen=True)
class BlockShape:
    """The shape of one transformer block.

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
    """MACs of the matrix products between queries, keys and values; see :mod:`sousvit.spaces.layers.attention`."""
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


class ModelShape(ABC):
    """The shape of a model before or after a recipe, as far as it is known without running it.

    Attributes:
        exact_figures: objectives that :meth:`figures` gives exactly; others it gives are bounds.
    """

    exact_figures: frozenset[str]

    @abstractmethod
    def figures(self, bytes_per_weight: float) -> dict[str, float]:
        """Values of objectives by name, in their units, such as ``{"params": 5.7}`` (millions).

        Args:
            bytes_per_weight: average bytes of a matrix weight in the file, at least.
        """


class NetworkShape(ModelShape):
    """The shape of a network whose parameters and MACs are counted."""

    exact_figures = frozenset({"params", "macs"})

    @abstractmethod
    def params(self) -> int:
        """Number of parameters."""

    @abstractmethod
    def macs(self) -> int:
        """Multiply-accumulates of one image."""

    @abstractmethod
    def matrix_weights(self) -> int:
        """Weights of linear layers and convolutions, without biases; what quantization shrinks."""

    def figures(self, bytes_per_weight: float) -> dict[str, float]:
        """Parameters and MACs (exact, millions) and a lower bound of the file size (MB)."""
        return {
            "params": self.params() / 1e6,
            "macs": self.macs() / 1e6,
            "size": self.matrix_weights() * bytes_per_weight / 1e6,
        }


@dataclass(frozen=True)
class VitShape(NetworkShape):
    """The shape of a plain VisionTransformer (ViT, DeiT, DeiT-III, CLIP image towers, register and distilled variants).

    Attributes:
        image: (height, width) in pixels.
        channels: of the image.
        patch: (height, width) in pixels.
        embed_dim: channels of a token.
        num_prefix_tokens: class, distillation and register tokens.
        num_position_tokens: prefix tokens that have a position embedding, or None when nothing has one.
        num_classes: outputs of a classifier.
        num_classifiers: 1, 2 for a distilled DeiT and for DINOv2, 0 without a head.
        pool: what the classifier reads: ``token``, ``avg``, ``avgmax``, ``max``,
            ``class_and_mean`` (:mod:`sousvit.models.class_and_mean`), or empty for all tokens.
        width_params: parameters per embedding channel outside blocks, patch weights and position embedding.
        other_params: parameters outside blocks that no technique resizes (classifier biases).
        blocks: in order.
        dropped: patches that are embedded but never become tokens.
        head_channels: outputs of the layer with which a detection head reads every patch; 0 for a classifier.
        head_macs: MACs of what follows that layer, the same whatever the backbone is; measured once.
        head_weights: matrix weights of what follows it.
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
    head_channels: int = 0
    head_macs: int = 0
    head_weights: int = 0

    @property
    def detects(self) -> bool:
        """Whether a detection head reads the patches."""
        return self.head_channels > 0

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
            + self.head_channels * self.embed_dim
            + self.head_weights
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
        detection = self.num_patches * self.head_channels * self.embed_dim + self.head_macs
        return self.num_patches * self._patch_weights + blocks + head + detection

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
class OtherShape(NetworkShape):
    """The shape of a network that is no plain VisionTransformer: its totals only.

    Attributes:
        name: of the architecture.
        image: (height, width) in pixels.
        channels: of the image.
        num_classes: outputs of the classifier.
        num_params: all parameters.
        num_macs: multiply-accumulates of one image.
        num_matrix_weights: weights of linear layers and convolutions.
        num_linear: linear layers besides the classifier that read something of the image, as they are deployed.
        detects: whether a detection head reads its last map.
    """

    name: str
    image: tuple[int, int]
    channels: int
    num_classes: int
    num_params: int
    num_macs: int
    num_matrix_weights: int
    num_linear: int
    detects: bool = False

    def params(self) -> int:
        """Number of parameters."""
        return self.num_params

    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return self.num_macs

    def matrix_weights(self) -> int:
        """Weights of linear layers and convolutions."""
        return self.num_matrix_weights


def read_shape(plain: Mapping[str, Any]) -> NetworkShape:
    """The inverse of ``dataclasses.asdict`` on either shape.

    Raises:
        pydantic.ValidationError: it is neither.
    """
    from pydantic import TypeAdapter

    kind: Any = OtherShape if "num_macs" in plain else VitShape
    shape: NetworkShape = TypeAdapter(kind).validate_python(plain)
    return shape


def _require_all_tokens(shape: VitShape) -> None:
    if shape.reduces_tokens:
        raise UserError("tokens are reduced by one step only, after the patches", "a second one", "drop a step")
