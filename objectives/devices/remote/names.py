"""The names under which an agent may be asked: what keeps the pages of a browser from asking it.

A page can send requests to any address that its browser reaches. One that lets its own name point at the agent's
address (DNS rebinding) would even read the answers; what gives it away is the name in ``Host``. Every other page is
given away by ``Origin`` or ``Sec-Fetch-Site``, which browsers add and pages cannot change.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping

from sousvit.errors import UserError
from sousvit.objectives.devices.remote.head import RefusedError

_NAME = re.compile(r"[a-z0-9._-]{1,253}")
_HOST = re.compile(r"(?:\[([0-9a-f:.]{2,45})\]|([a-z0-9._-]{1,253}))(?::([0-9]{1,5}))?")
#: What browsers say of a request that no other page made.
_OWN_SITES = ("none", "same-origin")


class Names:
    """Names of one agent.

    Args:
        host: as the agent was told to listen on.
        address, port: where it listens.
        others: names of the device that only others know, a proxy's for instance (:func:`host_name`); with any port.
    """

    def __init__(self, host: str, address: str, port: int, others: Iterable[str] = ()) -> None:
        self._port, self._others = port, set(others)
        self._own = {host.lower(), address, *_machine_names(address)}
        self._everywhere = ipaddress.ip_address(address).is_unspecified

    def require(self, headers: Mapping[str, str]) -> None:
        """Let only those in who ask the agent itself, and no page of another origin.

        Raises:
            RefusedError: it was another host or a page that was meant.
        """
        host = headers.get("host", "").lower()
        if not host:
            raise RefusedError(400, "a request names its host")
        if not self._knows(host):
            raise RefusedError(421, "the agent is asked by its own address; --host-name gives it another name")
        pages = ("", f"http://{host}", f"https://{host}")
        if headers.get("origin", "").lower() not in pages or headers.get("sec-fetch-site", "none") not in _OWN_SITES:
            raise RefusedError(403, "the agent does not answer pages of other origins")

    def _knows(self, host: str) -> bool:
        parts = _HOST.fullmatch(host)
        if parts is None:
            return False
        name, port = parts[1] or parts[2], int(parts[3] or 80)
        if name in self._others:
            return True
        # Where the agent listens on every address, any may be its own; a page can only let a name point at it.
        return port == self._port and (name in self._own or (self._everywhere and _is_address(name)))


def host_name(text: str) -> str:
    """A name as it is compared.

    Raises:
        UserError: it is none, or has a port.
    """
    name = text.lower()
    if not _NAME.fullmatch(name):
        raise UserError("a host name is a name without a port", repr(text), "correct --host-name")
    return name


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _machine_names(address: str) -> set[str]:
    """What this machine is called by those who reach ``address``."""
    own = socket.gethostname().lower()
    names = set() if is_loopback(address) else {own, f"{own}.local"}
    return names | ({"localhost"} if is_loopback(address) or ipaddress.ip_address(address).is_unspecified else set())


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
