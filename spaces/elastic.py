"""An elastic base: one network whose leading units are smaller networks that work, too.

Train once, search many. A pruned model tells little before it is trained again, so a search pays a training for every
recipe that it looks at. An elastic base is trained once so that its parts can stand alone: units lie in the order of
their importance, and in every step the smallest part, random larger ones and if wanted the whole learn together, on
shared weights, from the base's stored answers (sandwich rule and distillation of universally slimmable networks, Yu
and Huang, arXiv 1903.05134; depth and width together as in Once-for-all, 1908.09791, and AutoFormer, 2107.00651).
A recipe's model is then read off, its accuracy is measured without training it, and only what is chosen is trained.

A part is what a recipe's structural steps leave of the elastic model when they keep the first units, which is what
they do in a skeleton. So nothing here knows of heads or MLPs: :class:`SubNetwork` lets the steps cut a copy whose
weights are numbered, reads off which weights stayed, and computes with those slices of the shared ones.
The technique that puts it together is :mod:`sousvit.spaces.techniques.elastic`.
"""

from __future__ import annotations

import copy
import random
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.func import functional_call

from sousvit.spaces.technique import Context, ModelTechnique

if TYPE_CHECKING:
    from sousvit.spaces.recipe import Step
    from sousvit.spaces.training import Logits

    #: Normalised images to logits.
    Network = Callable[[torch.Tensor], Logits]


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
    """What structural steps leave of ``model``, computed with its own weights.

    Args:
        model: the whole; its weights may change later.
        steps: that cut it.
        decisions: of the elastic model (see :class:`Context`).
    """

    def __init__(self, model: nn.Module, steps: Sequence[Step], decisions: Mapping[str, Any]) -> None:
        self._model = model
        self._module, self.slices = cut(model, steps, decisions)

    def __call__(self, images: torch.Tensor) -> Logits:
        """Logits of normalised images, in the mode (training or not) of the whole."""
        shared = dict(self._model.named_parameters())
        weights = {name: part.of(shared[part.source]) for name, part in self.slices.items()}
        output: Logits = functional_call(self._module.train(self._model.training), weights, (images,))
        return output


def cut(model: nn.Module, steps: Sequence[Step], decisions: Mapping[str, Any]) -> tuple[nn.Module, dict[str, Slice]]:
    """The module that ``steps`` leave of ``model``, without weights of its own, and where it finds them.

    Raises:
        UserError: a step does not fit the model.
    """
    device = next(model.parameters()).device
    numbered, starts = _numbered(model)
    context = Context(normalise=lambda images: images, decisions=dict(decisions))
    for step in steps:
        handler = step.handler
        assert isinstance(handler, ModelTechnique)
        numbered = handler.apply(numbered, step.config, context)
    slices = {name: _slice(name, value, starts) for name, value in numbered.named_parameters()}
    for parameter in numbered.parameters():
        parameter.data = torch.empty(0)  # only its place counts: the weights are the whole's
    return numbered.to(device), slices


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

    The rule asks for the whole because it teaches the parts. Here the base's stored answers do, and the parts learn
    more in the same time without it (measured: benchmarks/results/elastic.md).

    Args:
        model: the whole.
        draws: per technique of a part, in order, the configurations to choose from, the smallest last; None for none.
        decisions: of the elastic model.
        count: networks a step, at least 2.
        whole: whether the whole is one of them.
        seed: of the random parts; a step's depend on it and the step alone.
    """

    def __init__(
        self,
        model: nn.Module,
        draws: Mapping[str, Sequence[Step | None]],
        decisions: Mapping[str, Any],
        count: int,
        whole: bool,
        seed: int,
    ) -> None:
        self._model, self._draws, self._decisions = model, draws, decisions
        self._count, self._whole, self._seed = count, whole, seed
        self._made: dict[tuple[Step, ...], SubNetwork] = {}

    def __call__(self, step: int) -> list[Network]:
        """What learns in ``step``."""
        drawn = random.Random(f"{self._seed} {step}")
        fixed = [tuple(steps[-1] for steps in self._draws.values()), *[()] * self._whole]
        free = [tuple(drawn.choice(steps) for steps in self._draws.values()) for _ in range(self._count - len(fixed))]
        return [self._part(part) for part in (*fixed, *free)]

    def _part(self, part: Sequence[Step | None]) -> Network:
        steps = tuple(step for step in part if step is not None)
        if not steps:
            return self._model
        if steps not in self._made:
            self._made[steps] = SubNetwork(self._model, steps, self._decisions)
        return self._made[steps]
