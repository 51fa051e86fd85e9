"""The device of a target, opened."""

from __future__ import annotations

from sousvit.errors import UserError
from sousvit.objectives.devices import BUILTIN
from sousvit.objectives.devices.device import Device
from sousvit.objectives.targets.target import ON_RAY, Target
from sousvit.registry import Registry

DEVICES: Registry[type[Device]] = Registry("device", "sousvit.devices", BUILTIN, classes=True)


def open_device(target: Target) -> Device:
    """The device of a target; nothing is started or reached yet."""
    if target.agent == ON_RAY:
        raise UserError("a target with agent: ray needs a search on Ray", target.label, "use --executor ray")
    return DEVICES.get(target.device if target.agent is None else "agent")(target)
