"""How a search is changed for a comparison: one of its levers off, or all of them and plain Optuna proposing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Change:
    """How a search differs from ours.

    Attributes:
        search: keys of a budget's ``search:`` section.
        techniques: added to the space.
    """

    search: Mapping[str, Any] = field(default_factory=dict)
    techniques: Mapping[str, Any] = field(default_factory=dict)


#: Every recipe in full, none rejected or added by anybody but the proposer.
ALL_OFF = {"explore_fidelity": 1.0, "without": ["gates", "starters", "variants"]}
PLAIN = {name: Change({"proposer": name, **ALL_OFF}) for name in ("tpe", "nsga2", "random", "gp", "qlognehvi")}
LEVERS = {
    "no-model": Change({"proposer": "tpe"}),
    "no-rungs": Change({"explore_fidelity": 1.0}),
    "no-unrecovered": Change({"without": ["unrecovered"]}),
    "no-cache": Change({"cache_gb": 1e-9}),  # the newest entry stays: the teacher's answers are lost to the next model
    "no-fan-out": Change({"without": ["variants"]}),
    # What is left where only accuracy is limited: shapes and deployments that never pay, and better rivals.
    "no-gates": Change({"without": ["gates"]}),
    "no-priors": Change({"without": ["starters"]}),
    "with-elastic": Change(techniques={"elastic": {"epochs": [2]}}),
}
CHANGES = {"sousvit": Change(), **PLAIN, **LEVERS}
