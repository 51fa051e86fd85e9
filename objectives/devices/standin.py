"""Devices that measure by requests to a process of their own, and the stand-in: a constrained process of this machine.

A stand-in has few cores and little memory of *this* machine. It answers whether a model fits and how models compare
on so many cores; it is not the device, whose cores, caches and memory are others.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from sousvit.errors import TrialError
from sousvit.objectives.devices import process
from sousvit.objectives.devices.device import Device, device_facts
from sousvit.objectives.devices.protocol import Request, RequestError, decode_groups
from sousvit.objectives.devices.remote.files import file_hashes
from sousvit.objectives.memory_probe import Probe
from sousvit.objectives.timing import DEFAULT, Timing, TimingPlan, summarise

if TYPE_CHECKING:
    from sousvit.objectives.targets.target import Target
    from sousvit.spaces.export.artifact import Artifact

_ONE = "artifact"


class RequestingDevice(Device):
    """Sends a :class:`Request` and reads raw figures; where to is the subclass's."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._probes: dict[str, Probe] = {}

    @abstractmethod
    def carry_out(self, request: Request) -> Any:
        """What came of a request, decoded by :func:`decode`; raises as :meth:`Device.time`."""

    def time(
        self, artifacts: Mapping[str, Artifact], baseline: str, plan: TimingPlan = DEFAULT, with_baseline: bool = False
    ) -> dict[str, Timing]:
        alone = len(artifacts) == 1
        request = replace(self._request_for("time", artifacts, baseline, plan), with_baseline=with_baseline or alone)
        groups = self.carry_out(request)
        return {name: summarise(done, plan, self.target.batch) for name, done in groups.items()}

    def probe(self, artifact: Artifact) -> Probe:
        return self._probed(artifact, None)

    def admit(self, artifact: Artifact) -> None:
        limit = self.target.memory_bytes
        if limit is not None:
            process.require_memory(self._probed(artifact, limit).process_bytes, limit)

    def _probed(self, artifact: Artifact, limit: int | None) -> Probe:
        key = repr(sorted(file_hashes(artifact).items()))
        if key not in self._probes:
            request = self._request_for("probe", {_ONE: artifact}, _ONE, DEFAULT)
            self._probes[key] = self.carry_out(replace(request, memory_bytes=limit))
        return self._probes[key]

    def energy_mj(self, artifact: Artifact, plan: TimingPlan = DEFAULT) -> float:
        return float(self.carry_out(self._request_for("energy", {_ONE: artifact}, _ONE, plan)))

    def _request_for(self, ask: Any, artifacts: Mapping[str, Artifact], baseline: str, plan: TimingPlan) -> Request:
        target = self.target
        return Request(
            ask, artifacts, baseline, target.threads, target.batch, plan, cores=target.cores, timeout=target.timeout
        )


def decode(request: Request, answer: Mapping[str, Any]) -> Any:
    """Groups by name, a :class:`Probe`, or millijoules.

    Raises:
        RequestError: the answer is not to this request, or malformed.
    """
    try:
        if request.cores is not None and len(answer["affinity"]) != request.cores:
            raise RequestError(f"{request.cores} cores were asked for, {len(answer['affinity'])} were used")
        if request.ask == "time":
            groups = decode_groups(answer["groups"])
            wanted = set(request.artifacts) - (set() if request.with_baseline else {request.baseline})
            if set(groups) != wanted or not all(groups.values()):
                raise RequestError(f"timings of {sorted(wanted)} were asked for, not of {sorted(groups)}")
            return groups
        if request.ask == "energy":
            return _positive(answer["energy_mj"])
        return Probe(
            int(_positive(answer["memory_bytes"])),
            int(_positive(answer["process_bytes"])),
            _positive(answer["load_ms"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise error if isinstance(error, RequestError) else RequestError(f"the answer is malformed: {error}") from error


def _positive(value: Any) -> float:
    number = float(value)
    if not 0 < number < float("inf"):
        raise RequestError(f"a measured figure is a number above 0, not {value}")
    return number


class StandIn(RequestingDevice):
    """A process of this machine, pinned to the target's cores, its memory held against the target's limit."""

    name: ClassVar[str] = "stand-in"
    reads: ClassVar[frozenset[str]] = frozenset({"cores", "memory"})

    def facts(self) -> dict[str, Any]:
        target = self.target
        return {**device_facts(), "standin": {"cores": target.cores, "memory_mb": target.memory}}

    def carry_out(self, request: Request) -> Any:
        try:
            return decode(request, process.measure(request))
        except RequestError as error:
            raise TrialError(f"measuring failed: {error}") from error
