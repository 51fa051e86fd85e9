"""Simulated runs, see :mod:`tests.search.simulation`, so that engine tests take a fraction of a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sousvit.search.archive import Archive
from sousvit.search.budget import Budget
from sousvit.search.callbacks import Callback
from sousvit.search.engine import Engine
from sousvit.search.executors.executor import Job, JobResult
from sousvit.search.executors.simulated import SimulatedClock, SimulatedExecutor
from sousvit.search.results import Answer
from sousvit.search.run import make_engine
from sousvit.spaces.shape import VitShape
from sousvit.spaces.space import make_space, read_space
from tests.search.simulation import Simulation, base_record, figures, simulated_budget, tiny_shape
from tests.search.simulation import simulated_search as search_simulated


@pytest.fixture(scope="session")
def shape() -> VitShape:
    return tiny_shape()


@pytest.fixture(scope="session")
def made_up() -> SimpleNamespace:
    """The made-up world's parts, for tests that put them together otherwise."""
    return SimpleNamespace(simulation=Simulation, base_record=base_record, figures=figures, budget=simulated_budget)


@dataclass
class Run:
    """One simulated search on disk."""

    engine: Engine
    archive: Archive
    executor: SimulatedExecutor
    budget: Budget


@pytest.fixture
def simulated(shape: VitShape, tmp_path: Path) -> Callable[..., Run]:
    """Make a run from budget changes; ``folder`` again resumes; a full training takes ``seconds``."""

    def make(
        folder: str = "run",
        trouble: Callable[[Job], JobResult | None] = lambda job: None,
        in_memory: bool = True,
        workers: int = 1,
        seconds: float = 10.0,
        **changes: Any,
    ) -> Run:
        budget = simulated_budget(**changes)
        archive = Archive(tmp_path / folder, writable=True)
        simulation = Simulation(shape, budget, trouble, seconds)
        base = base_record(shape)
        if archive.base is None:
            archive.append("base", base=base.to_dict())
        clock = SimulatedClock()
        executor = SimulatedExecutor(base, simulation.judge, clock, workers=workers)
        space, _ = make_space(read_space(budget.space), shape, budget.runtimes)
        engine = make_engine(budget, archive, executor, base, shape, space, Callback(), clock, with_study=not in_memory)
        return Run(engine, archive, executor, budget)

    return make


@pytest.fixture(scope="session")
def simulated_search(shape: VitShape) -> Callable[..., tuple[Answer, list[str]]]:
    """See :func:`tests.search.simulation.simulated_search`."""
    return partial(search_simulated, shape)


@pytest.fixture
def simulated_survey(shape: VitShape) -> Callable[..., tuple[Budget, SimulatedExecutor]]:
    """A budget without limits and an executor for it."""

    def make(
        trouble: Callable[[Job], JobResult | None] = lambda job: None, **changes: Any
    ) -> tuple[Budget, SimulatedExecutor]:
        budget = simulated_budget(**{"limits": {}, **changes})
        return budget, SimulatedExecutor(base_record(shape), Simulation(shape, budget, trouble).judge)

    return make
