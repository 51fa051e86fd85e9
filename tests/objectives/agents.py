"""Real agents in processes of their own, and bytes that are sent to them."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Protocol

from sousvit.objectives.targets.target import Target

#: What a terminal obeys.
ESCAPE = "\x1b]0;owned\x07\x1b[31m"
#: Seconds in which everything must be answered.
SOON = 3.0
FACTS = "GET /v1/facts HTTP/1.1"


class Served(Protocol):
    """An agent of this process or another one."""

    server_port: int


class AgentProcess:
    """A real agent in a process of its own; ``start`` again on the same port is a device that was restarted."""

    def __init__(self, folder: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        self.log, self.options = folder / "agent.log", options
        self.environment = {**os.environ, "TMPDIR": str(folder), **(environment or {})}
        self.server_port, self.process = 0, None

    def start(self) -> AgentProcess:
        command = [
            sys.executable,
            "-m",
            "sousvit.objectives.devices.remote.agent",
            "--port",
            str(self.server_port),
            *self.options,
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.log.parent, stdout=subprocess.PIPE, stderr=log, text=True, env=self.environment
            )
        line = self.process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:"), self.log.read_text()
        self.server_port = int(line.rsplit(":", 1)[1])
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def target(self, **changes: Any) -> Target:
        values = {"device": "board", "agent": f"http://127.0.0.1:{self.server_port}", "patience": 10, **changes}
        return Target.model_validate(values)

    def uploads(self) -> int:
        return self.log.read_text().count('"PUT ')


class Line:
    """A connection to an agent."""

    def __init__(self, agent: Served) -> None:
        self.socket = socket.create_connection(("127.0.0.1", agent.server_port), timeout=SOON)

    def say(self, *parts: bytes) -> Line:
        for part in parts:
            self.socket.sendall(part)
        return self

    def answer(self, within: float = SOON) -> bytes:
        """All that comes until the other side ends, which it must soon."""
        found, deadline = b"", time.monotonic() + within
        while time.monotonic() < deadline:
            part = self.socket.recv(1 << 16)
            if not part:
                return found
            found += part
        raise AssertionError(f"no end of {found[:200]!r}")

    def is_open(self) -> bool:
        self.socket.setblocking(False)
        try:
            return self.socket.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            self.socket.settimeout(SOON)


def request(agent: Served, first: str, *headers: str, host: str | None = None) -> bytes:
    """A head; its host is the agent's address unless another is given."""
    shown = f"127.0.0.1:{agent.server_port}" if host is None else host
    return "\r\n".join([first, f"Host: {shown}", *headers, "", ""]).encode("latin-1")


def status(answer: bytes) -> int:
    found = re.match(rb"HTTP/1\.[01] (\d{3}) ", answer)
    assert found, answer
    return int(found[1])


def ask(agent: Served, content: bytes, within: float = SOON) -> tuple[int, str]:
    """The status and the error of one request."""
    line = Line(agent).say(content)
    with line.socket:
        line.socket.settimeout(within)
        answer = line.answer(within)
    return status(answer), json.loads(answer.partition(b"\r\n\r\n")[2]).get("error", "")
