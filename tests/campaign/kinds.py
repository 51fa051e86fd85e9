"""The kinds of attacks, and how many of each make the whole campaign."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.campaign import cluster, kills
from tests.campaign.outcome import Outcome

#: (count, seed) to what came of so many attacks.
KINDS: dict[str, Callable[[int, int], Iterator[Outcome]]] = {
    "kills": kills.attacks,
    "cluster": cluster.attacks,
}
WHOLE = {"kills": 1000, "cluster": 100}
#: What the test suite takes of them; losses of nodes have tests of their own.
SMALL = {"kills": 5}
