"""Statistics of a model that all trials share, such as the order in which its blocks may go: computed once a run.

They are stored by content: the model's weights, the calibration images, and the seed. Most trials begin with the base.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from sousvit.cache import TensorCache, checksum
from sousvit.files import content_hash

if TYPE_CHECKING:
    from sousvit.spaces.context import Context


class KeptStatistics:
    """A store of statistics.

    Args:
        cache: where they are stored.
    """

    def __init__(self, cache: TensorCache) -> None:
        self._cache = cache

    def read(self, what: str, model: nn.Module, context: Context) -> list[torch.Tensor] | None:
        """The statistic ``what`` of ``model``, if it is known."""
        found = self._cache.read(self._key(what, model, context))
        return None if found is None else [found[0][str(place)] for place in range(len(found[0]))]

    def write(self, what: str, model: nn.Module, context: Context, values: Sequence[torch.Tensor]) -> None:
        """Keep it."""
        self._cache.write(self._key(what, model, context), {str(place): value for place, value in enumerate(values)})

    def _key(self, what: str, model: nn.Module, context: Context) -> str:
        assert context.calibration is not None
        weights = checksum(model.state_dict(), {})
        return "statistics/" + content_hash(what, weights, context.calibration.fingerprint, context.seed)


def kept(what: str, model: nn.Module, context: Context, make: Callable[[], list[torch.Tensor]]) -> list[torch.Tensor]:
    """The statistic ``what`` of ``model``: as it is kept, or made and kept."""
    store = context.statistics
    if store is None:
        return make()
    found = store.read(what, model, context)
    if found is None:
        found = make()
        store.write(what, model, context, found)
    return found
