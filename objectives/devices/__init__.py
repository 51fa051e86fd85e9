"""Devices, which time and probe artifacts. The contract is device.py; a new one is a file and a line in this table.

Reading order: device.py, open.py (which device a target asks for), local.py, standin.py, remote/client.py (ours);
protocol.py and measure.py (what a measuring process is asked and does), process.py (who watches over it),
remote/agent.py and remote/store.py (the device's side), remote/checks.py (which answers can be true); browser/ (a page
that measures).
"""

from __future__ import annotations

#: Name -> its class, imported at first look-up.
BUILTIN = {
    "agent": "sousvit.objectives.devices.remote.client:RemoteDevice",
    "local": "sousvit.objectives.devices.local:LocalDevice",
    "stand-in": "sousvit.objectives.devices.standin:StandIn",
}
