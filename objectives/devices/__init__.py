"""Where artifacts are timed and probed. The contract is device.py; a new device is a file and a line in this table."""

from __future__ import annotations

#: Name -> its class, imported at first look-up.
BUILTIN = {
    "agent": "sousvit.objectives.devices.remote.client:RemoteDevice",
    "local": "sousvit.objectives.devices.local:LocalDevice",
    "stand-in": "sousvit.objectives.devices.standin:StandIn",
}
