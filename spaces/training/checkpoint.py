"""The state of a training on the way: weights, optimisers and generators, so that a killed one goes on.

Random draws depend on seed and step alone, so a training that goes on ends with the weights it would have had.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sousvit.cache import TensorCache

#: Seconds between two writings; a shorter training writes nothing.
PERIOD = 30.0
_STEP, _MODEL, _GENERATOR = "step", "model.", "generator."


class Checkpoint:
    """The stored state of one training.

    Args:
        cache: holds it.
        key: of this training; what it learns from and how must be part of it.
    """

    def __init__(self, cache: TensorCache, key: str) -> None:
        self._cache, self._key = cache, key
        self._last = time.monotonic()
        self._written = False

    def restore(self, learner: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> int:
        """Steps done by an earlier process, with its state loaded; 0 where there is none, or it does not fit."""
        found = self._cache.read(self._key)
        if found is None:
            return 0
        tensors, notes = found
        own = learner.state_dict()
        weights: dict[str, Any] = {name: tensors.get(_MODEL + name) for name in own}
        states = [_read_state(tensors, f"{place}.") for place in range(len(optimizers))]
        generators: dict[str, Any] = {name: tensors.get(_GENERATOR + name) for name in _generators()}
        if _STEP not in notes or None in generators.values() or not _fit(weights, own):
            self._cache.forget(self._key)
            return 0
        learner.load_state_dict(weights)
        for optimizer, state in zip(optimizers, states, strict=True):
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        _set_generators(generators)
        self._written = True
        return int(notes[_STEP])

    def keep(self, step: int, learner: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Write the state after ``step`` steps, where the last writing is at least :data:`PERIOD` ago."""
        if time.monotonic() - self._last < PERIOD:
            return
        tensors = {_MODEL + name: value for name, value in learner.state_dict().items()}
        tensors |= {_GENERATOR + name: value for name, value in _generators().items()}
        for place, optimizer in enumerate(optimizers):
            tensors |= _state(optimizer, f"{place}.")
        plain = {name: value.detach().cpu() for name, value in tensors.items()}
        self._cache.write(self._key, plain, {_STEP: step})
        self._last, self._written = time.monotonic(), True

    def drop(self) -> None:
        """Remove the state of a training that is over."""
        if self._written:
            self._cache.forget(self._key)


def _state(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, torch.Tensor]:
    """Per-parameter state by ``<prefix><parameter>.<name>``; of the optimisers here it is all tensors."""
    state = optimizer.state_dict()["state"]
    return {f"{prefix}{index}.{name}": value for index, entry in state.items() for name, value in entry.items()}


def _read_state(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[int, dict[str, torch.Tensor]]:
    """The inverse of :func:`_state`."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(prefix):
            index, _, name = key.removeprefix(prefix).partition(".")
            state.setdefault(int(index), {})[name] = value
    return state


def _fit(found: Mapping[str, torch.Tensor | None], own: Mapping[str, torch.Tensor]) -> bool:
    return all(value is not None and value.shape == own[name].shape for name, value in found.items())


def _generators() -> dict[str, torch.Tensor]:
    """States of the global generators, which dropout and stochastic depth draw from."""
    found = {"cpu": torch.get_rng_state()}
    return found | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _set_generators(states: Mapping[str, torch.Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
