"""An agent in this process, on a free loopback port, without a token."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sousvit.objectives.devices.remote.agent import Agent

MAX_BYTES = 10**6


@pytest.fixture
def serve_agent(tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    """Starts agents; ``token`` and ``host_names`` may be given."""
    agents: list[Agent] = []

    def serve(token: str | None = None, **more: Any) -> Agent:
        agents.append(Agent("127.0.0.1", 0, token, tmp_path / f"store{len(agents)}", MAX_BYTES, **more))
        threading.Thread(target=agents[-1].serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return agents[-1]

    yield serve
    for agent in agents:
        agent.shutdown()
        agent.server_close()


@pytest.fixture
def agent(serve_agent: Callable[..., Agent]) -> Agent:
    return serve_agent()
