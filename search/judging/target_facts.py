"""What the facts of a budget's targets decide: which objectives they can tell, and whether they are those of before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sousvit.errors import UserError
from sousvit.objectives.latency import TAILS
from sousvit.objectives.objective import Objective

#: Facts by target.
Facts = Mapping[str, Mapping[str, Any]]
#: What a browser's figures depend on; it may be another one any day, on the same device too.
_OF_A_BROWSER = ("browser", "cpu", "cores", "runtimes")


def told(objectives: Iterable[Objective], facts: Facts, first: str) -> list[Objective]:
    """The objectives without the percentiles of targets whose clock is too coarse for single inferences.

    Args:
        first: the target that names without a target are of.
    """
    coarse = {target for target, known in facts.items() if not known.get("tails", True)}
    return [
        one
        for one in objectives
        if not (one.name.startswith(TAILS) and (one.name.partition("@")[2] or first) in coarse)
    ]


def require_same_browsers(known: Facts, facts: Facts) -> None:
    """Refuse to go on with another browser, or the same one in another version or with another clock.

    Raises:
        UserError: it is another.
    """
    for target, before in known.items():
        now = facts.get(target, {})
        if "browser" in before and any(before.get(key) != now.get(key) for key in _OF_A_BROWSER):
            raise UserError(
                "a resumed run has the browsers it began with",
                f"target {target}: {_words(now)}, at first {_words(before)}",
                "open the page there, or use another --run name",
            )


def _words(facts: Mapping[str, Any]) -> str:
    browser = facts.get("browser") or {}
    runtimes = ", ".join(f"{name} {version}" for name, version in dict(facts.get("runtimes", {})).items())
    alone = "isolated" if browser.get("isolated") else "not isolated"
    return f"{facts.get('cpu')}, {facts.get('cores')} cores, {alone}, clock {browser.get('tick_us')} us, {runtimes}"
