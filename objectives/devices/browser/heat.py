"""Heat: a phone slows down as it warms up, which the base shows against its first session.

Candidate and base take turns, so their ratio holds; but the two need not slow down alike, and a session that is hotter
than the others compares with none of them. What counts is the base's lower quartile: heat makes every inference
slower, and what else runs on the device only some.
"""

from __future__ import annotations

import numpy as np

from sousvit.objectives.devices.protocol import Request
from sousvit.objectives.devices.remote.files import file_hashes
from sousvit.objectives.timing import Group

#: The base may take so many times as long as in its first session.
MOST = 1.15


class Heat:
    """Remembers the base's first session, for each base, number of threads and batch."""

    def __init__(self) -> None:
        self._first: dict[str, float] = {}

    def factor(self, request: Request, groups: dict[str, list[Group]]) -> float:
        """The base's lower quartile over that of its first session (1 for the first)."""
        every = np.concatenate([group.baseline for done in groups.values() for group in done])
        quartile = float(np.quantile(every, 0.25))
        base = request.artifacts[request.baseline]
        key = f"{base.runtime} {sorted(file_hashes(base).items())} {request.threads} {request.batch}"
        return quartile / self._first.setdefault(key, quartile)
