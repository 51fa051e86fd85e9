"""The agent on a device: takes artifacts over HTTP, times them beside a baseline, answers with raw figures and facts.

``sousvit device serve``, or where typer and torch are missing ``python -m sousvit.objectives.devices.remote.agent``.
It needs Python, numpy and the runtimes only. What travels is JSON and the artifacts' own files; nothing that comes in
is unpickled or run as code. Each measurement runs in a process of its own
(:mod:`sousvit.objectives.devices.measure`), one at a time.

===========================  ===========================================================================
``GET /v1/facts``            :func:`sousvit.objectives.devices.device.device_facts`, bounds, date
``POST /v1/lacking``         ``{"hashes": [...]}`` -> ``{"lacking": [...]}``
``PUT /v1/files/SHA256``     one file's bytes
``POST /v1/measure``         an :class:`.protocol.Request` with ``nonce`` -> its answer with nonce, files and facts
===========================  ===========================================================================

Errors are ``{"error": one line}`` with 400 (a wrong request), 401 (token), 403 and 421 (a web page, another host:
:mod:`.names`), 408 (too slow), 413 (too large), 422 (the artifact failed) or 503 (busy). A connection carries one
request; :mod:`.head` reads it, :mod:`.connections` bounds how many strangers hold one.
"""

from __future__ import annotations

import argparse
import contextlib
import hmac
import json
import os
import select
import shutil
import signal
import socket
import socketserver
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, ClassVar

from sousvit.errors import TrialError, UserError, one_line
from sousvit.objectives.devices import process
from sousvit.objectives.devices.device import device_facts
from sousvit.objectives.devices.protocol import Request, RequestError
from sousvit.objectives.devices.remote.connections import BoundedServer
from sousvit.objectives.devices.remote.files import MIN_RATE, file_hashes
from sousvit.objectives.devices.remote.head import SILENCE, Inbound, RefusedError
from sousvit.objectives.devices.remote.names import Names, host_name, is_loopback
from sousvit.objectives.devices.remote.store import BusyError, FullError, Store
from sousvit.objectives.runtimes.runtime import get_runtime
from sousvit.objectives.targets.tokens import read_token

HOST, PORT = "127.0.0.1", 8765
#: Of the folder with the uploaded files; the process id follows.
PREFIX = "sousvit-device-"
#: Bytes of a JSON request.
MAX_JSON = 1 << 20


@dataclass(frozen=True)
class File:
    """An answer that is no JSON: its bytes, their media type, and how long they may be kept (``Cache-Control``)."""

    body: bytes
    kind: str
    cached: str = "no-store"


#: What a request is answered with.
Content = Mapping[str, Any] | File


class Agent(BoundedServer):
    """Serves one device.

    Args:
        host, port: where; port 0 takes a free one.
        token: that every request must carry; needed unless ``host`` is a loopback address.
        folder: of the uploaded files.
        max_bytes: of all of them; as much again while files arrive.
        host_names: other names that the device is reached by.

    Raises:
        UserError: the host needs a token, or cannot be listened on; a host name is none.
    """

    def __init__(
        self, host: str, port: int, token: str | None, folder: Path, max_bytes: int, host_names: Iterable[str] = ()
    ) -> None:
        if token is None and not is_loopback(host):
            raise UserError(
                "an agent that others can reach needs a token",
                f"--host {host}",
                "add --token-file, or leave out --host",
            )
        self.token, self.store, self.max_bytes = token, Store(folder, max_bytes), max_bytes
        others = [host_name(name) for name in host_names]
        self.measuring = threading.Lock()
        self.boot = uuid.uuid4().hex
        try:
            super().__init__((host, port), self.handler())
        except OSError as error:
            raise UserError(
                "the agent must be able to listen", f"{host}:{port} ({error.strerror})", "choose another --port"
            ) from error
        address, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.names = Names(host, address, self.server_port, others)

    def handler(self) -> type[Handler]:
        """What answers a connection."""
        return Handler

    def greeting(self, host: str) -> list[str]:
        """What is told when it begins to listen on ``host``."""
        facts = self.facts()
        shown = ", ".join(f"{name} {version}" for name, version in facts["runtimes"].items()) or "no runtime"
        return [
            f"listening on http://{host}:{self.server_port}",
            f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gb']} GB; {shown}",
        ]

    def facts(self) -> dict[str, Any]:
        """What the device is."""
        known = device_facts()
        runtimes = {name: version for name, version in known["runtimes"].items() if get_runtime(name).opens_untrusted}
        return {**known, "runtimes": runtimes, **self.bounds()}

    def bounds(self) -> dict[str, Any]:
        """What the agent takes, since when it runs, and its date."""
        return {"max_bytes": self.max_bytes, "boot": self.boot, "date": time.strftime("%Y-%m-%dT%H:%M:%S%z")}

    def measure(self, given: Mapping[str, Any], connection: socket.socket) -> dict[str, Any]:
        """Carry out a request, as long as the other side waits for it.

        Raises:
            RequestError: the request is wrong.
            TrialError: an artifact failed.
            process.UnwantedError: the other side hung up.
        """
        given = dict(given)
        nonce = str(given.pop("nonce", ""))[:64]
        with contextlib.ExitStack() as stack:
            request = Request.from_dict(given, lambda plain: stack.enter_context(self.store.laid_out(plain["files"])))
            offered = self.facts()["runtimes"]
            foreign = {one.runtime for one in request.artifacts.values()} - set(offered)
            if foreign:
                runs = ", ".join(offered) or "no runtime"
                raise RequestError(f"the agent runs {runs}, not {', '.join(sorted(foreign))[:40]}")
            files = {name: file_hashes(artifact) for name, artifact in request.artifacts.items()}
            answer = self.carry_out(request, lambda: not _hung_up(connection))
        return {**answer, "nonce": nonce, "files": files, "facts": self.facts()}

    def carry_out(self, request: Request, is_wanted: Callable[[], bool]) -> dict[str, Any]:
        """The raw figures of a checked request; raises as :meth:`measure`."""
        return process.measure(request, is_wanted)


class Handler(socketserver.BaseRequestHandler):
    """One request and its answer; the connection ends with it."""

    server: Agent
    #: Of every answer.
    HEADERS: ClassVar[Mapping[str, str]] = {}

    def setup(self) -> None:
        self._inbound, self._asked = Inbound(self.request), "-"

    def handle(self) -> None:
        """Run the route; every failure is an answer, never a traceback to a stranger."""
        try:
            self._send(200, self._answer())
        except RefusedError as error:
            self._send(error.status, {"error": str(error)})
        except FullError as error:
            self._send(413, {"error": str(error)})
        except BusyError as error:
            self._send(503, {"error": str(error)})
        except RequestError as error:
            self._send(400, {"error": str(error)})
        except (TrialError, UserError) as error:
            self._send(422, {"error": str(error)})
        except (process.UnwantedError, ConnectionError):
            pass
        except Exception as error:  # told to the other side; the agent lives on
            self._send(500, {"error": one_line(error)})

    def _answer(self) -> Content:
        self._head = self._inbound.read_head()
        self._asked = f"{self._head.method} {self._head.path}"
        self.server.names.require(self._head.headers)
        self._require_token()
        return self._route()()

    def _require_token(self) -> None:
        """Let in who shows the token, or everybody where there is none.

        Raises:
            RefusedError: the token is missing or wrong.
        """
        token = self._token()
        given = self._head.headers.get("authorization", "").encode()
        if token is not None and not hmac.compare_digest(given, f"Bearer {token}".encode()):
            raise RefusedError(401, "the token is missing or wrong")
        self.server.strangers.let_in(self.request, is_known=token is not None)

    def _token(self) -> str | None:
        """What a request of this head must carry."""
        return self.server.token

    def _route(self) -> Callable[[], Content]:
        method, path = self._head.method, self._head.path
        if method == "PUT" and path.startswith("/v1/files/"):
            return self._file
        routes = {("POST", "/v1/lacking"): self._lacking, ("POST", "/v1/measure"): self._measure}
        routes["GET", "/v1/facts"] = self._facts
        if (method, path) not in routes:
            raise RefusedError(404, "no such path")
        return routes[method, path]

    def _facts(self) -> dict[str, Any]:
        if self._head.headers.get("content-length", "0") != "0":
            raise RequestError("such a request has no content")
        return self.server.facts()

    def _lacking(self) -> dict[str, Any]:
        hashes = self._json().get("hashes")
        if not isinstance(hashes, list):
            raise RequestError("hashes are a list")
        return {"lacking": self.server.store.lacking(hashes)}

    def _file(self) -> dict[str, Any]:
        length = self._length(self.server.max_bytes)
        self.server.store.add(self._head.path.rpartition("/")[2], self._inbound, length)
        return {}

    def _measure(self) -> dict[str, Any]:
        request = self._json()
        if not self.server.measuring.acquire(blocking=False):
            raise BusyError("another measurement is running")
        try:
            return self.server.measure(request, self.request)
        finally:
            self.server.measuring.release()

    def _length(self, most: int) -> int:
        """Bytes of the content that follows, which has a time to come in from now on."""
        length = self._head.length
        if length > most:
            raise FullError(f"a request may have {most} bytes, not {length}")
        self._inbound.allow(SILENCE + length / MIN_RATE)
        return length

    def _json(self, most: int = MAX_JSON) -> dict[str, Any]:
        # A web page cannot send this type to another address without asking first.
        if self._head.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise RequestError("a request is application/json")
        length = self._length(most)
        try:
            found = json.loads(self._inbound.read_all(length))
        except (ValueError, RecursionError) as error:
            raise error if isinstance(error, RequestError) else RequestError("a request is JSON") from error
        if not isinstance(found, dict):
            raise RequestError("a request is a JSON object")
        return found

    def _log(self, status: int) -> None:
        """One line on stderr: neither the token nor anything that a terminal obeys can stand in it."""
        with contextlib.suppress(OSError):  # nobody may read what we log
            print(f'{self.client_address[0]} "{self._asked}" {status}', file=sys.stderr)

    def _send(self, status: int, content: Content) -> None:
        self._log(status)
        body = content.body if isinstance(content, File) else json.dumps(content).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **self.HEADERS}
        if isinstance(content, File):
            headers |= {"Content-Type": content.kind, "Cache-Control": content.cached}
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        with contextlib.suppress(OSError):  # the other side may be gone
            self.request.settimeout(SILENCE + len(body) / MIN_RATE)
            self.request.sendall("\r\n".join([*lines, "", ""]).encode() + body)
            if status >= 400:
                self._drain()

    def _drain(self) -> None:
        """Read what is still coming for a moment: closing at once would take the answer back."""
        self.request.shutdown(socket.SHUT_WR)
        self.request.settimeout(0.5)
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline and self.request.recv(1 << 16):
            pass


def _hung_up(connection: socket.socket) -> bool:
    """Whether the other side has gone; where the system can tell, also behind bytes that nobody reads."""
    poller, gone = select.poll(), getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR
    poller.register(connection, gone | select.POLLIN)
    events = dict(poller.poll(0)).get(connection.fileno(), 0)
    try:
        return bool(events & gone) or (bool(events) and connection.recv(1, socket.MSG_PEEK) == b"")
    except OSError:
        return True


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _remove_left_behind() -> None:
    """Remove the folders of agents that were killed, so that restarts do not fill the disk."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        owner = folder.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdecimal() and not Path(f"/proc/{owner}").exists() and Path("/proc/self").exists():
            shutil.rmtree(folder, ignore_errors=True)


def serve(
    host: str,
    port: int,
    token_file: Path | None,
    max_gb: float,
    host_names: Iterable[str] = (),
    make: Callable[..., Agent] = Agent,
) -> None:
    """Serve until Ctrl-C; the uploaded files go with the agent.

    Args:
        make: the agent, from what its class takes.

    Raises:
        UserError: the host needs a token, the token's file or the port cannot be had, a host name is none.
    """
    token = None if token_file is None else read_token(token_file)
    _remove_left_behind()
    signal.signal(signal.SIGTERM, _interrupt)  # so that the uploaded files are removed
    with (
        contextlib.suppress(KeyboardInterrupt),
        tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-") as folder,
        make(host, port, token, Path(folder), int(max_gb * 1e9), host_names) as agent,
    ):
        print("\n".join(agent.greeting(host)), flush=True)
        agent.serve_forever(poll_interval=0.2)


def main() -> int:
    """Command line of a board without typer; the same as ``sousvit device serve``."""
    parser = argparse.ArgumentParser(
        prog="sousvit.objectives.devices.remote.agent", description="Measure artifacts here."
    )
    parser.add_argument("--host", default=HOST)
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--token-file", type=Path)
    parser.add_argument("--host-name", action="append", default=[], help="another name that the device is reached by")
    parser.add_argument("--max-gb", type=float, default=2.0, help="of uploaded files")
    given = parser.parse_args()
    try:
        serve(given.host, given.port, given.token_file, given.max_gb, given.host_name)
    except UserError as error:
        print(f"sousvit: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
