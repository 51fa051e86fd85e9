"""An elastic base: one network whose leading units are smaller networks that work, too.

Train once, search many. A pruned model tells little before it is trained again, so a search pays a training for every
recipe that it looks at. An elastic base is trained once so that its parts can stand alone: units lie in the order of
their importance, and in every step the smallest part, random larger ones and if wanted the whole learn together, on
shared weights, from the base's stored answers (sandwich rule and distillation of universally slimmable networks, Yu
and Huang, arXiv 1903.05134; depth and width together as in Once-for-all, 1908.09791, and AutoFormer, 2107.00651).
A recipe's model is then read off, its accuracy is measured without training it, and only what is chosen is trained.

What calibration images can repair in closed form need not be learned. So a part's weights are

    the repaired cut of the ordered base  +  slice of (elastic base - ordered base):

before training every part is what pruning gives today, and training moves the shared weights from there. Its first
summand, less the slice of the ordered base, is a constant of the part (:attr:`SubNetwork.repairs`).

A part is what a recipe's structural steps leave of a model when they keep the first units, which is what they do in a
skeleton. So nothing here knows of heads or MLPs: :func:`cut` lets the steps cut a copy whose weights are numbered, and
reads off which stayed. The technique that puts it together is :mod:`sousvit.spaces.techniques.elastic.elastic`.
"""

from __future__ import annotations

import copy
import itertools
import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.func import functional_call

from sousvit.spaces.context import Context
from sousvit.spaces.technique import ModelTechnique

if TYPE_CHECKING:
    from sousvit.spaces.recipe import Step
    from sousvit.spaces.training.plan import Predictions

    #: Normalised images to predictions.
    Network = Callable[[torch.Tensor], Predictions]


@dataclass(frozen=True)
class Slice:
    """Which part of a parameter stays.

    Attributes:
        source: name of the parameter of the whole.
        indices: per dimension the places that stay, ascending or not; None for all of them, in order.
    """

    source: str
    indices: tuple[torch.Tensor | None, ...]

    def of(self, whole: torch.Tensor) -> torch.Tensor:
        """The part of ``whole``; gradients flow back to it."""
        for dimension, places in enumerate(self.indices):
            if places is None:
                continue
            first, count = int(places[0]), len(places)
            if torch.equal(places, torch.arange(first, first + count)):
                whole = whole.narrow(dimension, first, count)
            else:
                whole = whole.index_select(dimension, places.to(whole.device))
        return whole


class SubNetwork:
    """A part of an elastic base, computed with the weights of the whole.

    Args:
        whole: the elastic base; its weights may change later.
        ordered: the base in the same order, untrained.
        steps: that cut the part, each by its first units.
        context: with calibration images, and the decisions of the elastic base.

    Raises:
        UserError: a step does not fit the model.
        TrialError: the deadline passed.
    """

    def __init__(self, whole: nn.Module, ordered: nn.Module, steps: Sequence[Step], context: Context) -> None:
        self._whole = whole
        self._module, self._slices = cut(whole, steps, context.decisions)
        device = next(whole.parameters()).device
        known = dict(ordered.named_parameters())
        repaired = applied(copy.deepcopy(ordered), steps, replace(context, decisions=dict(context.decisions)))
        #: What repair adds to the slices, by the part's own names; what it leaves alone is not named.
        self.repairs: dict[str, torch.Tensor] = {}
        for name, value in repaired.named_parameters():
            part = self._slices[name]
            added = (value - part.of(known[part.source])).detach()
            if added.any():
                self.repairs[name] = added.to(device)

    def __call__(self, images: torch.Tensor) -> Predictions:
        """Predictions for normalised images, in the mode (training or not) of the whole."""
        output: Predictions = functional_call(self._module.train(self._whole.training), self.weights(), (images,))
        return output

    def weights(self) -> dict[str, torch.Tensor]:
        """The part's weights by its own names; gradients flow back to those of the whole."""
        shared = dict(self._whole.named_parameters())
        slices = {name: part.of(shared[part.source]) for name, part in self._slices.items()}
        return {name: value + self.repairs[name] if name in self.repairs else value for name, value in slices.items()}

    @torch.no_grad()
    def model(self) -> nn.Module:
        """The part as a model of its own, in eval mode."""
        weights, own = self.weights(), copy.deepcopy(self._module)
        for name, parameter in own.named_parameters():
            parameter.data = weights[name].clone(memory_format=torch.contiguous_format)
        return own.eval()


def applied(model: nn.Module, steps: Sequence[Step], context: Context) -> nn.Module:
    """``model``, changed by ``steps``."""
    for step in steps:
        handler = step.handler
        assert isinstance(handler, ModelTechnique)
        model = handler.apply(model, step.config, context)
    return model


def cut(model: nn.Module, steps: Sequence[Step], decisions: Mapping[str, Any]) -> tuple[nn.Module, dict[str, Slice]]:
    """The module that ``steps`` leave of ``model``, without weights of its own, and where it finds them.

    Raises:
        UserError: a step does not fit the model.
    """
    device = next(model.parameters()).device
    numbered, starts = _numbered(model)
    context = Context(normalise=lambda images: images, decisions=dict(decisions))
    numbered = applied(numbered, steps, context)
    slices = {name: _slice(name, value, starts) for name, value in numbered.named_parameters()}
    for parameter in numbered.parameters():
        parameter.data = torch.empty(0)  # only its place counts: the weights are the whole's
    return numbered.float().to(device), slices


@dataclass(frozen=True)
class _Starts:
    """First number of every parameter, ascending, with its name and shape."""

    numbers: list[int]
    names: list[str]
    shapes: list[torch.Size]


def _numbered(model: nn.Module) -> tuple[nn.Module, _Starts]:
    """A copy of ``model`` on the CPU in which every weight is a number of its own."""
    numbered = copy.deepcopy(model).cpu().double()  # whole numbers are exact up to 2^53
    starts, total = _Starts([], [], []), 0
    for name, parameter in numbered.named_parameters():
        starts.numbers.append(total)
        starts.names.append(name)
        starts.shapes.append(parameter.shape)
        parameter.data = torch.arange(total, total + parameter.numel(), dtype=torch.float64).view_as(parameter)
        total += parameter.numel()
    return numbered, starts


def _slice(name: str, numbers: torch.Tensor, starts: _Starts) -> Slice:
    """Where the weights ``numbers`` stood in the whole."""
    found = numbers.detach().long()
    place = bisect_right(starts.numbers, int(found.flatten()[0])) - 1
    shape = starts.shapes[place]
    assert found.ndim == len(shape), f"{name} has other dimensions than {starts.names[place]}"
    local = found - starts.numbers[place]
    indices, strides = [], _strides(shape)
    for dimension, (stride, size) in enumerate(zip(strides, shape, strict=True)):
        line = local[tuple(slice(None) if other == dimension else 0 for other in range(found.ndim))]
        indices.append(line // stride % size)
    grid = sum(
        places.view([-1 if other == dimension else 1 for other in range(found.ndim)]) * stride
        for dimension, (places, stride) in enumerate(zip(indices, strides, strict=True))
    )
    assert torch.equal(torch.as_tensor(grid), local), f"{name} is no slice of {starts.names[place]}"
    whole = (torch.arange(size) for size in shape)
    kept = (None if torch.equal(one, every) else one for one, every in zip(indices, whole, strict=True))
    return Slice(starts.names[place], tuple(kept))


def _strides(shape: Sequence[int]) -> list[int]:
    strides, stride = [], 1
    for size in reversed(shape):
        strides.append(stride)
        stride *= size
    return strides[::-1]


class Sandwich:
    """The networks that learn together in a step: the smallest part, random ones, and with ``whole`` the whole.

    The rule asks for the whole because it teaches the parts; here the base's stored answers do.

    Args:
        model: the whole.
        draws: per technique of a part, in order, the steps to choose from, the strongest last; None for none.
        context: with calibration images, and the decisions of the elastic base.
        count: networks a step.
        whole: whether the whole is one of them.
        pool: different random parts in all; each has its repairs computed once.
    """

    def __init__(
        self,
        model: nn.Module,
        draws: Mapping[str, Sequence[Step | None]],
        context: Context,
        count: int,
        whole: bool,
        pool: int,
    ) -> None:
        self._model, self._ordered, self._context = model, copy.deepcopy(model), context
        self._count, self._whole = count, whole
        self._made: dict[tuple[Step, ...], SubNetwork] = {}
        every = [_steps(part) for part in itertools.product(*draws.values())]
        self._smallest = every[-1]
        between = every[1:-1] or every
        self._pool = random.Random(context.seed).sample(between, min(pool, len(between)))

    def __call__(self, step: int) -> list[Network]:
        """What learns in ``step``; it depends on the seed and the step alone."""
        fixed: list[Network] = [self._part(self._smallest), *[self._model] * self._whole]
        drawn = random.Random(f"{self._context.seed} {step}")
        return fixed + [self._part(drawn.choice(self._pool)) for _ in range(self._count - len(fixed))]

    def _part(self, steps: tuple[Step, ...]) -> Network:
        if not steps:
            return self._model
        if steps not in self._made:
            self._made[steps] = SubNetwork(self._model, self._ordered, steps, self._context)
        return self._made[steps]


def _steps(part: Iterable[Step | None]) -> tuple[Step, ...]:
    return tuple(step for step in part if step is not None)
