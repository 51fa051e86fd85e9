"""Devices that join as Ray nodes: ``ray start --address HEAD:PORT --resources '{"device:board": 1}'`` on the board.

One actor holds the node's ``device:<name>`` resource, so that nobody else measures there, and runs the same agent as
``sousvit device serve``: workers send artifacts to it and get timings back, and hold no device while they train.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import tempfile
import threading
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from sousvit.errors import UserError

if TYPE_CHECKING:
    from sousvit.objectives.targets.target import Target

#: Seconds in which a node with the resource must be there.
JOIN_SECONDS = 120.0


class DeviceNode:
    """Runs the measuring agent on its node, on one port for its whole life, so that a restart is found again.

    Args:
        token: that the agent asks for.
    """

    def __init__(self, token: str) -> None:
        self._token = token
        self._agent: subprocess.Popen[str] | None = None
        self._port = 0

    def serve(self) -> str:
        """Start the agent where none runs, and return its address."""
        host = ray.util.get_node_ip_address()
        if self._agent is None or self._agent.poll() is not None:
            file = Path(tempfile.mkdtemp(prefix="sousvit-token-")) / "token"
            file.touch(mode=0o600)
            file.write_text(self._token)
            command = [sys.executable, "-m", "sousvit.objectives.devices.remote.agent", "--host", host]
            command += ["--port", str(self._port), "--token-file", str(file)]
            self._agent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            assert self._agent.stdout is not None
            said = self._agent.stdout.readline().strip()
            if not said.startswith("listening on "):
                raise RuntimeError(f"the agent did not start: {said}")
            # It logs every request: a pipe that nobody empties would stop it once it is full.
            threading.Thread(target=deque, args=(self._agent.stdout, 0), daemon=True).start()
            self._port = int(said.rpartition(":")[2])
        return f"http://{host}:{self._port}"

    def close(self) -> None:
        """Stop the agent."""
        if self._agent is not None:
            self._agent.terminate()
            self._agent.wait(10)


def place(target: Target) -> tuple[Any, dict[str, Any], dict[str, str]]:
    """An actor on the target's node, what reaches it there, and the environment that workers need for it.

    Raises:
        UserError: no node offers the device.
    """
    token, variable = secrets.token_hex(16), f"SOUSVIT_TOKEN_{secrets.token_hex(4).upper()}"
    resource = f"device:{target.device}"
    actor = ray.remote(num_cpus=0, resources={resource: 1}, max_restarts=3)(DeviceNode).remote(token)
    try:
        address = ray.get(actor.serve.remote(), timeout=JOIN_SECONDS)
    except ray.exceptions.GetTimeoutError as error:
        ray.kill(actor)
        raise UserError(
            "a device of agent: ray is a node of the cluster",
            f"no free node with the resource {resource}",
            f"run there: ray start --address HEAD:PORT --resources '{{\"{resource}\": 1}}'",
        ) from error
    return actor, {"agent": address, "token_env": variable}, {variable: token}
