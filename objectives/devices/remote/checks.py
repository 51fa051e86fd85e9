"""The plausibility of a device's answers, by the session's own baseline, our clock, and what is known of the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sousvit.objectives.devices.protocol import Request, RequestError
from sousvit.objectives.timing import Group

#: What must stay the same from answer to answer: another value is another machine.
#: Of a browser, its name and version, whether it is isolated, and its clock count too.
IDENTITY = ("cpu", "cores", "memory_gb", "os", "runtimes", "browser")
#: The baseline's first rounds over its last ones, median over groups: the session's own A/A test.
MAX_SELF_RATIO = 1.3
#: The baseline's median may change by this factor within a run (throttling and other clocks included).
MAX_CHANGE = 5.0
#: Inferences must fill at least this share of the time that was to be measured, and no more than passed here.
MIN_FILLED = 0.5
CLOCK_SLACK = 1.05


class Sanity:
    """Holds what a device said of itself, and the baselines it timed."""

    def __init__(self) -> None:
        self._identity: dict[str, Any] | None = None
        self._baselines: dict[str, float] = {}

    def check_facts(self, facts: Any) -> None:
        """Facts are whole and those of the same machine as before.

        Raises:
            RequestError: they are not.
        """
        needed = (*(key for key in IDENTITY if key != "browser"), "energy", "versions")
        whole = isinstance(facts, Mapping) and all(key in facts for key in needed)
        if not whole or not isinstance(facts["cores"], int) or not isinstance(facts["runtimes"], Mapping):
            raise RequestError("the device's facts are incomplete")
        identity = {key: facts.get(key) for key in IDENTITY}
        if self._identity is None:
            self._identity = identity
        changed = [key for key in IDENTITY if identity[key] != self._identity[key]]
        if changed:
            raise RequestError(f"another machine answers than at first: {', '.join(changed)} changed")

    def check_timings(self, groups: Mapping[str, list[Group]], request: Request, elapsed: float, baseline: str) -> None:
        """Timings could have been measured in the ``elapsed`` seconds, beside a steady ``baseline`` (its identity).

        Raises:
            RequestError: they could not.
        """
        every = [group for done in groups.values() for group in done]
        total = sum(sum(g.candidate) + sum(g.baseline) for g in every)
        if total > elapsed * CLOCK_SLACK:
            raise RequestError(f"inferences of {total:.3g} s cannot have been run in {elapsed:.3g} s")
        wanted = request.plan.min_seconds * len(groups)
        if total < MIN_FILLED * wanted:
            raise RequestError(f"inferences of {total:.3g} s in all do not fill the {wanted:.3g} s that were asked for")
        own = float(np.median([np.median(g.baseline_first) / np.median(g.baseline_last) for g in every]))
        if not 1 / MAX_SELF_RATIO <= own <= MAX_SELF_RATIO:
            raise RequestError(f"the baseline differs from itself by a factor of {max(own, 1 / own):.2f}")
        median = float(np.median(np.concatenate([g.baseline for g in every])))
        known = self._baselines.get(baseline, median)
        if not known / MAX_CHANGE <= median <= known * MAX_CHANGE:
            raise RequestError(f"the baseline took {1e3 * known:.3g} ms before and {1e3 * median:.3g} ms now")
        self._baselines.setdefault(baseline, median)
