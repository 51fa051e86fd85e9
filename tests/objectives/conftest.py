"""Small real subjects: a tiny ViT, one with half the depth, their artifacts, timing, memory and predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sousvit.objectives.conformance import made_up_subject
from sousvit.spaces.conformance import tiny_context
from tests.objectives.agents import AgentProcess


@pytest.fixture(scope="package")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return made_up_subject(tmp_path_factory.mktemp("subjects"))


@pytest.fixture(scope="package")
def noise() -> tuple[Any, Any]:
    context = tiny_context()
    return context.calibration, context.normalise


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
