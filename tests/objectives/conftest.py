"""Small real subjects: a tiny ViT, one with half the depth, their artifacts, timing, memory and predictions."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sousvit.objectives.conformance import made_up_subject
from sousvit.objectives.targets.target import Target
from sousvit.spaces.conformance import tiny_context


@pytest.fixture(scope="package")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return made_up_subject(tmp_path_factory.mktemp("subjects"))


@pytest.fixture(scope="package")
def noise() -> tuple[Any, Any]:
    context = tiny_context()
    return context.calibration, context.normalise


class AgentProcess:
    """A real agent in a process of its own; ``start`` again on the same port is a device that was restarted."""

    def __init__(self, folder: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        self.log, self.options = folder / "agent.log", options
        self.environment = {**os.environ, "TMPDIR": str(folder), **(environment or {})}
        self.port, self.process = 0, None

    def start(self) -> AgentProcess:
        command = [
            sys.executable,
            "-m",
            "sousvit.objectives.devices.remote.agent",
            "--port",
            str(self.port),
            *self.options,
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=self.environment
            )
        line = self.process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:"), self.log.read_text()
        self.port = int(line.rsplit(":", 1)[1])
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def target(self, **changes: Any) -> Target:
        values = {"device": "board", "agent": f"http://127.0.0.1:{self.port}", "patience": 10, **changes}
        return Target.model_validate(values)

    def uploads(self) -> int:
        return self.log.read_text().count('"PUT ')


@pytest.fixture
def start_agent(tmp_path: Path) -> Iterator[Callable[..., AgentProcess]]:
    started: list[AgentProcess] = []

    def start(*options: str, **more: Any) -> AgentProcess:
        started.append(AgentProcess(tmp_path, *options, **more).start())
        return started[-1]

    yield start
    for agent in started:
        if agent.process.poll() is None:
            agent.kill()
