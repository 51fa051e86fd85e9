"""Tokens halfway through a block, at the layer that reads its heads or its MLP units: what was computed stays.

So the block is computed once, although its layers change between the statistics and the tokens that leave it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sousvit.spaces.calibration.repair import Moments
from sousvit.spaces.calibration.stream import TokenStream, calibrating, check_deadline

if TYPE_CHECKING:
    from timm.models.vision_transformer import Block

#: The layers that read the heads and the MLP units, by the part of the block that they belong to.
READERS = {"attn": "proj", "mlp": "fc2"}


class Halfway:
    """All tokens of a stream, inside one block.

    Args:
        stream: stands before the block until :meth:`leave`.
        block: of a plain Vision Transformer.
        part: ``attn`` or ``mlp``; what its last layer reads is kept.
    """

    def __init__(self, stream: TokenStream, block: Block, part: str) -> None:
        self._stream, self._block, self._part = stream, block, part
        self._entered: list[torch.Tensor] = []
        self._attended: list[torch.Tensor] = []
        owner = getattr(block, part)
        with calibrating(), stood_in(owner, READERS[part], Recorder(self._entered, block)):
            for tokens in stream.batches:
                check_deadline(stream.context, "calibration")
                attended = block.attn(block.norm1(tokens))
                if part == "mlp":
                    self._attended.append(attended)
                    with stood_in(block, "attn", Known(attended)):
                        block(tokens)

    def moments(self) -> Moments:
        """Moments of what the layer reads."""
        moments = Moments.zeros(self._entered[0].shape[-1])
        for entered in self._entered:
            moments.add(entered)
        return moments

    def leave(self, kept: torch.Tensor) -> None:
        """Move the stream behind the block, whose layer reads the channels ``kept`` alone by now."""
        block, batches = self._block, self._stream.batches
        layer = getattr(getattr(block, self._part), READERS[self._part])
        for index, tokens in enumerate(batches):
            check_deadline(self._stream.context, "calibration")
            with calibrating():
                given = layer(self._entered[index][..., kept])
                attended = given if self._part == "attn" else self._attended[index]
                with stood_in(block, "attn", Known(attended)):
                    if self._part == "attn":
                        batches[index] = block(tokens)
                    else:
                        with stood_in(block, "mlp", Known(given)):
                            batches[index] = block(tokens)


class Recorder(nn.Module):
    """Keeps what comes in, and gives nothing: zeros ``[..., D]``."""

    def __init__(self, found: list[torch.Tensor], block: Block) -> None:
        super().__init__()
        self._found, self._width = found, block.norm1.normalized_shape[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self._found.append(x)
        return x.new_zeros((*x.shape[:-1], self._width))


class Known(nn.Module):
    """Gives what is known already, whatever comes in."""

    def __init__(self, given: torch.Tensor) -> None:
        super().__init__()
        self._given = given

    def forward(self, *_: Any, **__: Any) -> torch.Tensor:
        return self._given


@contextmanager
def stood_in(owner: nn.Module, name: str, module: nn.Module) -> Iterator[None]:
    """``module`` in the place of ``owner.name`` inside the block."""
    own = getattr(owner, name)
    setattr(owner, name, module)
    try:
        yield
    finally:
        setattr(owner, name, own)
