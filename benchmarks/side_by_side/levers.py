"""The engine's levers, taken off one at a time: what a search loses without one is what that one is worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from sousvit.search.engine import Engine
from sousvit.search.fidelity.fan_out import FanOut
from sousvit.search.fidelity.learning_curve import FULL


@dataclass(frozen=True)
class Change:
    """How a search differs from ours.

    Attributes:
        search: fields of :class:`sousvit.search.budget.SearchLimits`.
        techniques: added to the space.
        off: methods of the engine's parts that give nothing, and what they give then.
    """

    search: Mapping[str, Any] = field(default_factory=dict)
    techniques: Mapping[str, Any] = field(default_factory=dict)
    off: tuple[tuple[type, str, Any], ...] = ()

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The methods are off as long as this is open."""
        with ExitStack() as stack:
            for owner, name, answer in self.off:
                stack.enter_context(patch.object(owner, name, return_value=answer))
            yield


CHANGES = {
    "no-model": Change({"proposer": "tpe"}),
    "no-rungs": Change({"explore_fidelity": FULL}),
    "no-unrecovered": Change(off=((FanOut, "_offer_unrecovered", None),)),
    "no-cache": Change({"cache_gb": 1e-9}),  # the newest entry stays: the teacher's answers are lost to the next model
    "no-fan-out": Change(off=((FanOut, "offer", None),)),
    # Both of what is left where only accuracy is limited: shapes and deployments that never pay; better rivals.
    "no-gates": Change(off=((Engine, "_gated", None), (Engine, "_rivals", ()))),
    "no-priors": Change(off=((Engine, "_plan_starters", None),)),
    "with-elastic": Change(techniques={"elastic": {"epochs": [2]}}),
}
