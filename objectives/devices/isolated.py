"""Measurements of artifacts that others made, each in a process of its own, bounded in time and memory.

A runtime is not made for files that mean harm: a loop of 2^62 turns is a valid ONNX model. Whatever times an artifact
that a user names (``measure``, ``verify``, ``retarget``) does it here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from sousvit.errors import TrialError
from sousvit.objectives.devices import process
from sousvit.objectives.devices.device import Device, device_facts
from sousvit.objectives.devices.open import open_device
from sousvit.objectives.devices.protocol import RequestError
from sousvit.objectives.devices.standin import RequestingDevice, decode
from sousvit.objectives.targets.target import LOCAL, Target

if TYPE_CHECKING:
    from sousvit.objectives.devices.protocol import Request


class Isolated(RequestingDevice):
    """The present machine; a measurement may take the target's ``timeout``, and most of the memory."""

    name: ClassVar[str] = "isolated"

    def facts(self) -> dict[str, Any]:
        return device_facts()

    def carry_out(self, request: Request) -> Any:
        try:
            return decode(request, process.measure(request))
        except RequestError as error:
            raise TrialError(f"measuring failed: {error}") from error


def open_isolated(target: Target) -> Device:
    """The device of a target, for artifacts of others: all but ``local`` measure in another process anyway.

    Raises:
        UserError: as :func:`open_device`.
    """
    device = open_device(target)
    return Isolated(target) if target.device == LOCAL else device
