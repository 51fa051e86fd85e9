"""The devices by name, and the one that a target asks for."""

from __future__ import annotations

from sousvit.errors import UserError
from sousvit.objectives.devices import BUILTIN
from sousvit.objectives.devices.device import Device
from sousvit.objectives.targets.target import ON_RAY, Target
from sousvit.registry import Registry

DEVICES: Registry[type[Device]] = Registry("device", "sousvit.devices", BUILTIN, base=Device, classes=True)
#: The device behind an agent: targets call it by any name that no other device has.
AGENT = "agent"
#: Keys of a target that not every device heeds.
_KEYS = ("cores", "memory", "agent", "token_file", "token_env")


def open_device(target: Target) -> Device:
    """The device of a target; nothing is started or reached yet.

    Raises:
        UserError: the device lies on a Ray cluster, or the target breaks a rule of its device.
    """
    if target.agent == ON_RAY:
        raise UserError("a target with agent: ray needs a search on Ray", target.label, "use --executor ray")
    return device_of(target)(target)


def device_of(target: Target) -> type[Device]:
    """The kind of device that a target asks for, which heeds every key that the target gives.

    Raises:
        UserError: there is none, or it does not take the target.
    """
    names = [name for name in DEVICES.names() if name != AGENT]
    if target.device not in names and target.agent is None:
        raise UserError(
            f"a device is {', '.join(names)}, or named with its agent",
            repr(target.device),
            "add agent: http://HOST:PORT of its sousvit device serve",
        )
    device = DEVICES.get(target.device if target.device in names else AGENT)
    ignored = [key for key in _KEYS if getattr(target, key) is not None and key not in device.reads]
    if ignored:
        others = [name for name in DEVICES.names() if set(ignored) <= DEVICES.get(name).reads]
        action = f"remove it, or use {' or '.join(others)}" if others else "remove it"
        raise UserError(f"device: {target.device} takes no {' and no '.join(ignored)}", _given(target, ignored), action)
    if target.is_browser and "agent" not in device.reads:
        action = "add agent: http://HOST:PORT of a sousvit device serve --web, and the device's name"
        raise UserError(f"{target.runtimes[0]} runs in a browser", f"device: {target.device}", action)
    misfit = device.misfit(target)
    if misfit is not None:
        raise UserError(*misfit)
    return device


def _given(target: Target, keys: list[str]) -> str:
    return ", ".join(f"{key}: {getattr(target, key)}" for key in keys)
