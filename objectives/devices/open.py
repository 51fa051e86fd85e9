"""The device of a target, opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sousvit.errors import UserError
from sousvit.objectives.devices.device import Device

if TYPE_CHECKING:
    from sousvit.objectives.targets.target import Target


def open_device(target: Target) -> Device:
    """The device of a target; nothing is started or reached yet."""
    if target.is_local:
        from sousvit.objectives.devices.local import LocalDevice

        return LocalDevice(target)
    if target.is_standin:
        from sousvit.objectives.devices.standin import StandIn

        return StandIn(target)
    from sousvit.objectives.targets.target import ON_RAY  # the agent, which has no pydantic, imports this module too

    if target.agent == ON_RAY:
        raise UserError("a target with agent: ray needs a search on Ray", target.label, "use --executor ray")
    from sousvit.objectives.devices.remote.client import RemoteDevice

    return RemoteDevice(target)
