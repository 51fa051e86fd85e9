"""Statistics from calibration images: activation moments block by block, and Taylor scores.

Blocks are visited in order and every block reads what the already changed earlier blocks give it
(:class:`TokenStream`), so errors of earlier blocks are seen, and repaired, by later ones. One pass over a block feeds
every statistic that is needed of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sousvit.errors import TrialError
from sousvit.machine import cpu_has_bf16, fast_products
from sousvit.spaces.calibration.repair import Moments
from sousvit.spaces.tasks.task import task_of

if TYPE_CHECKING:
    from timm.models.vision_transformer import Block, VisionTransformer
    from torch.utils.hooks import RemovableHandle

    from sousvit.data import ImageSet
    from sousvit.spaces.context import Context

#: Token rows of a batch, at most, and images: what it takes in memory hardly depends on the model then.
BATCH_ROWS, BATCH = 8192, 128
#: Images that Taylor scores are averaged over, at least on large ones; each costs a forward and a backward pass.
TAYLOR_IMAGES, LEAST_TAYLOR = 256, 64
#: Pixels up to which an image is a small one.
SMALL_IMAGE = 64 * 64
#: Token rows per fitted input; more rows cost time and no longer change the fit.
ROWS_PER_INPUT = 12
#: Rows and images below which no statistic is taken, where there are as many.
LEAST_ROWS, LEAST_IMAGES = 8192, 32


def check_deadline(context: Context, what: str) -> None:
    """Stop a step that ran past its trial's time limit.

    Raises:
        TrialError: the deadline passed.
    """
    if context.deadline is not None and time.monotonic() > context.deadline:
        raise TrialError(f"{what} ran past the trial's time limit")


def calibration_images(context: Context, count: int | None = None) -> ImageSet:
    """At most ``count`` of the calibration images.

    Raises:
        TrialError: there are none.
    """
    assert context.calibration is not None
    if len(context.calibration) == 0:
        raise TrialError("calibration needs at least one image")
    return context.calibration if count is None else context.calibration.spread(count, context.seed)


def enough_images(context: Context, most: int, least: int) -> ImageSet:
    """At most ``most`` small calibration images; of larger ones, which say and cost more, fewer, but ``least``."""
    height, width = calibration_images(context).size
    return calibration_images(context, max(least, min(most, most * SMALL_IMAGE // (height * width))))


def image_batches(images: ImageSet, context: Context, size: int = BATCH) -> Iterator[tuple[torch.Tensor, Any]]:
    """(normalised images ``[B, C, H, W]``, their targets) in order; checks the deadline between batches."""
    for start in range(0, len(images), size):
        check_deadline(context, "calibration")
        rows = torch.arange(start, min(start + size, len(images)))
        yield context.normalise(images.images(rows)), images.targets(rows)


@contextmanager
def calibrating() -> Iterator[None]:
    """No gradients inside the block, bf16 where the CPU multiplies it, and fast products elsewhere.

    What bf16 rounds is small beside what a sample of some thousand rows leaves open.
    """
    with torch.no_grad(), fast_products(), torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bf16()):
        yield


def embed(model: VisionTransformer, images: torch.Tensor) -> torch.Tensor:
    """The tokens ``[B, N, D]`` that enter the first block of a timm VisionTransformer."""
    tokens: torch.Tensor = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))
    return tokens


@contextmanager
def captured_inputs(modules: Sequence[nn.Module]) -> Iterator[dict[int, torch.Tensor]]:
    """A mapping from ``i`` to the last input of ``modules[i]``, filled while models run inside the block."""
    found: dict[int, torch.Tensor] = {}

    def keep(index: int) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            found[index] = inputs[0]

        return hook

    with _removed([module.register_forward_pre_hook(keep(index)) for index, module in enumerate(modules)]):
        yield found


@contextmanager
def captured_outputs(modules: Sequence[nn.Module]) -> Iterator[dict[int, torch.Tensor]]:
    """A mapping from ``i`` to the last output of ``modules[i]``, filled while models run inside the block."""
    found: dict[int, torch.Tensor] = {}

    def keep(index: int) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            found[index] = output

        return hook

    with _removed([module.register_forward_hook(keep(index)) for index, module in enumerate(modules)]):
        yield found


@contextmanager
def _removed(handles: Sequence[RemovableHandle]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def rows_of(model: VisionTransformer) -> int:
    """Token rows that an image gives."""
    return int(model.patch_embed.num_patches + model.num_prefix_tokens)


class TokenStream:
    """Calibration tokens on their way through a model's blocks, one block at a time.

    Args:
        model: a timm VisionTransformer in eval mode.
        context: with calibration images.
        inputs: width of the activations to fit on, which decides how many images are enough.
    """

    def __init__(self, model: VisionTransformer, context: Context, inputs: int) -> None:
        self.context, rows = context, rows_of(model)
        count = max(LEAST_IMAGES, ceil(max(LEAST_ROWS, ROWS_PER_INPUT * inputs) / rows))
        images, size = calibration_images(context, count), max(1, min(BATCH, BATCH_ROWS // rows))
        with calibrating():
            self.batches = [embed(model, batch) for batch, _ in image_batches(images, context, size)]

    def through(self, block: Block, layers: Sequence[nn.Linear] = ()) -> list[Moments]:
        """Pass all tokens through ``block``; moments of what enters each of its ``layers``."""
        behind: list[torch.Tensor] = []
        found = self.moments(block, layers, behind)
        self.batches = behind
        return found

    def moments(
        self, block: Block, layers: Sequence[nn.Linear], behind: list[torch.Tensor] | None = None
    ) -> list[Moments]:
        """Moments of what enters each of ``layers``; the stream stays, and ``behind`` gets what leaves the block."""
        found = [Moments.zeros(layer.in_features) for layer in layers]
        with calibrating(), captured_inputs(layers) as entered:
            for tokens in self.batches:
                check_deadline(self.context, "calibration")
                left = block(tokens)
                for place, moments in enumerate(found):
                    moments.add(entered[place])
                if behind is not None:
                    behind.append(left)
        return found

    def normed(self, norm: nn.Module) -> Moments:
        """Moments of the tokens after ``norm``."""
        found = Moments.zeros(self.batches[0].shape[-1])
        with calibrating():
            for tokens in self.batches:
                check_deadline(self.context, "calibration")
                found.add(norm(tokens))
        return found


def taylor_scores(
    model: VisionTransformer, layers: Sequence[nn.Module], groups: Sequence[int], context: Context
) -> list[torch.Tensor]:
    """First-order importance of the input units of ``layers`` (Molchanov et al., arXiv 1906.10771).

    A gate of 1 is imagined on each unit; its score is the squared derivative of an image's loss with respect
    to the gate, averaged over images: ``mean over images of (sum over tokens and channels of x dL/dx)^2``.

    Args:
        model: scored by its task's loss on the calibration targets (cross entropy for classes).
        layers: modules whose inputs ``[B, N, groups * channels]`` are scored.
        groups: units per layer; neighbouring channels form one unit (1 channel: an MLP unit; head_dim: a head).
        context: with calibration images.

    Returns:
        One float64 ``[groups]`` per layer.

    Raises:
        TrialError: the deadline passed or a score is not finite.
    """
    images = enough_images(context, TAYLOR_IMAGES, LEAST_TAYLOR)
    scores = [torch.zeros(count, dtype=torch.float64) for count in groups]
    with calibrating(), captured_inputs(layers) as found, torch.enable_grad():
        for batch, targets in image_batches(images, context, LEAST_TAYLOR):
            loss = task_of(model).summed_loss(model, model(batch.requires_grad_()), targets)
            activations = [found[index] for index in range(len(layers))]
            gradients = torch.autograd.grad(loss, activations)
            for score, x, gradient in zip(scores, activations, gradients, strict=True):
                gate = (x.detach() * gradient).sum(1).unflatten(-1, (len(score), -1)).sum(-1)
                score += gate.double().square().sum(0)
    if not all(torch.isfinite(score).all() for score in scores):
        raise TrialError("Taylor scores are not finite")
    return [score / len(images) for score in scores]


def best_units(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of the ``count`` highest scores and of the rest, each in ascending order; ties go to the first."""
    order = torch.argsort(scores, descending=True, stable=True)
    return order[:count].sort().values, order[count:].sort().values


def new_linear(linear: nn.Linear, weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    """A linear layer with these weights that trains (or not) as ``linear`` did."""
    replaced = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    replaced.weight = nn.Parameter(weight.detach().clone(), requires_grad=linear.weight.requires_grad)
    if bias is not None:
        replaced.bias = nn.Parameter(bias.detach().clone(), requires_grad=linear.weight.requires_grad)
    return replaced.train(linear.training)
