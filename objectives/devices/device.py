"""The contract of a device: where artifacts are timed and their memory and energy measured, for one target.

Ours are this process (local.py), a constrained process of this machine (standin.py), and an agent on another machine
(remote/client.py); open.py lists them and opens the one that a target asks for. A plug-in is named in a budget as
``plugins: {devices: [my_file.py:Mine]}``, or an entry point in the group ``sousvit.devices``; a target then says
``device: `` and its name.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from sousvit.errors import MissingPackageError, SharedInputError
from sousvit.objectives.devices.machine import machine_facts
from sousvit.objectives.energy import ABSENT, find_meter
from sousvit.objectives.memory_probe import Probe
from sousvit.objectives.runtimes.runtime import RUNTIMES
from sousvit.objectives.timing import DEFAULT, Timing, TimingPlan

if TYPE_CHECKING:
    import numpy as np

    from sousvit.objectives.targets.target import Target
    from sousvit.spaces.export.artifact import Artifact


class Device(ABC):
    """Measures artifacts as ``target`` runs them. Not for use from several threads.

    Class attributes:
        name: as targets write it under ``device``.
        reads: which of a target's keys ``cores``, ``memory``, ``agent``, ``token_file`` and ``token_env`` it heeds; a
            target that gives it another is refused.
    """

    name: ClassVar[str]
    reads: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, target: Target) -> None:
        self.target = target

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What the device is: :func:`device_facts`.

        Raises:
            UserError: it cannot be reached, or does not let us in.
        """

    @abstractmethod
    def time(
        self, artifacts: Mapping[str, Artifact], baseline: str, plan: TimingPlan = DEFAULT, with_baseline: bool = False
    ) -> dict[str, Timing]:
        """Timings by artifact name, as :func:`sousvit.objectives.timing.measure_many` gives them of sessions.

        Raises:
            TrialError: an artifact failed, or the measurement could not be had or trusted.
            SharedInputError: the device is out for good.
        """

    @abstractmethod
    def probe(self, artifact: Artifact) -> Probe:
        """Memory and load time in a process of its own; raises as :meth:`time`."""

    @abstractmethod
    def energy_mj(self, artifact: Artifact, plan: TimingPlan = DEFAULT) -> float:
        """Millijoules of one inference; raises as :meth:`time`."""

    @classmethod
    def misfit(cls, target: Target) -> tuple[str, object, str] | None:
        """A rule that the target breaks on such a device, in the words of a UserError."""
        return None

    def unfit(self, facts: Mapping[str, Any], objectives: Sequence[str]) -> tuple[str, object, str] | None:
        """A rule that a device of these facts breaks, in the words of a UserError."""
        return None

    def admit(self, artifact: Artifact) -> None:  # noqa: B027 - most targets have no limit
        """Hold an artifact against the target's memory limit, if it has one.

        Raises:
            TrialError: it needs more.
        """

    def keep(self, artifact: Artifact) -> None:  # noqa: B027 - a hint
        """The artifact will be the baseline of many timings."""

    def show(self, images: np.ndarray) -> None:  # noqa: B027 - a hint
        """Normalised images, float32 ``[N, C, H, W]``, that predictions there may be compared with those here on."""

    def close(self) -> None:  # noqa: B027 - most devices hold nothing
        """Free what the device holds."""

    def check(self, objectives: Iterable[str] = ()) -> dict[str, Any]:
        """The facts, after comparing them with what the target and the objectives need.

        Raises:
            UserError: the device is not what the target says, or cannot tell an objective.
        """
        facts, target, objectives = self.facts(), self.target, list(objectives)
        broken = self.unfit(facts, objectives)
        if broken is not None:
            rule, received, action = broken
            raise SharedInputError(f"target {target.label}: {rule}", received, action)
        missing = [name for name in target.runtimes if name not in facts["runtimes"]]
        if missing:
            raise SharedInputError(
                f"target {target.label}: its runtimes must be installed on the device",
                f"no {', '.join(missing)} there",
                "install them there, or name others",
            )
        if max(target.threads, target.cores or 1) > facts["cores"]:
            raise SharedInputError(
                f"target {target.label}: a device has as many cores as are asked for",
                f"threads {target.threads} on {facts['cores']} cores",
                "lower threads or cores",
            )
        if not facts["energy"] and any(name.startswith("energy") for name in objectives):
            raise SharedInputError(f"target {target.label}: energy must be measurable", ABSENT, "leave energy out")
        return facts


def device_facts() -> dict[str, Any]:
    """:func:`machine_facts`, which runtimes are installed in which version, and whether energy can be measured."""
    runtimes = {}
    for runtime in RUNTIMES:
        if runtime.files_of:
            continue
        with contextlib.suppress(MissingPackageError):
            runtimes[runtime.name] = runtime.version()
    return {**machine_facts(), "runtimes": runtimes, "energy": find_meter() is not None}
