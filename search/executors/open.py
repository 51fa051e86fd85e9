"""Executors by the names that a user gives them: ``inline``, ``local``, ``ray``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from sousvit.errors import UnknownNameError, UserError
from sousvit.machine import available_cores
from sousvit.search.budget import Budget
from sousvit.search.executors.executor import Executor, Progress
from sousvit.search.executors.inline import InlineExecutor
from sousvit.search.executors.local import MEMORY_SHARE, LocalExecutor
from sousvit.search.executors.side_by_side import SideBySideExecutor
from sousvit.search.judging.worker import serve
from sousvit.search.trial import BaseRecord

if TYPE_CHECKING:
    from sousvit.models.load import LoadedModel

INLINE = "inline"


def open_executor(
    name: str, budget: Budget, folder: Path, progress: Progress | None = None, base: LoadedModel | None = None
) -> Executor:
    """The executor called ``name``; nothing is started yet.

    Args:
        progress: told what the running job does; of several workers nobody tells.
        base: the model, where it lies in this process's memory only; for ``inline``.

    Raises:
        UnknownNameError: nothing has this name.
        UserError: Ray is not installed.
    """
    if name not in EXECUTORS:
        raise UnknownNameError("executor", name, EXECUTORS)
    if base is None:
        return EXECUTORS[name](budget, folder, progress)
    assert name == INLINE, "no other process has this model"
    return inline_executor(budget, folder, progress, base)


def inline_executor(
    budget: Budget, folder: Path, progress: Progress | None = None, base: LoadedModel | None = None
) -> InlineExecutor:
    """The calling process.

    Raises:
        UserError: a trial's memory is limited, which only a process of its own can be, or there are to be several.
    """
    if budget.search.workers not in ("auto", 1):
        received = f"workers: {budget.search.workers}"
        raise UserError("executor inline has one worker", received, "leave it out, or use executor='local'")
    if budget.search.trial_memory_gb is not None:
        received = f"trial_memory_gb: {budget.search.trial_memory_gb:g}"
        raise UserError("executor inline cannot limit memory", received, "leave it out, or use executor='local'")
    return InlineExecutor({**_setup(budget, folder), "base": base}, progress)


def local_executor(budget: Budget, folder: Path, progress: Progress | None = None) -> SideBySideExecutor:
    """One worker process on this machine, or several.

    Raises:
        UserError: more workers than cores.
    """
    wanted, cores, memory = budget.search.workers, available_cores(), budget.search.trial_memory_gb
    if wanted != "auto" and wanted > cores:
        raise UserError("a worker needs a core", f"workers: {wanted} on {cores} cores", "use fewer, or auto")

    def make(progress: Progress, share: int | None) -> LocalExecutor:
        own = MEMORY_SHARE * psutil.virtual_memory().total * (share or cores) / cores
        setup = {**_setup(budget, folder), "cores": share}
        return LocalExecutor(serve, setup, own if memory is None else memory * 1e9, progress)

    def count(base: BaseRecord) -> int:
        if wanted != "auto":
            return wanted
        return min(cores, max(1, base.workers)) if budget.search.time is not None else 1

    return SideBySideExecutor(make, count, cores, progress)


def ray_executor(budget: Budget, folder: Path, progress: Progress | None = None) -> Executor:
    """Workers on a Ray cluster.

    Raises:
        UserError: Ray is not installed, or the budget has workers of this machine.
    """
    if budget.search.workers != "auto":
        received = f"search: {{workers: {budget.search.workers}}}"
        raise UserError("workers of a cluster are counted in its own section", received, "use ray: {workers: N}")
    try:
        from sousvit.search.executors.ray.tune import RayExecutor
    except ImportError as error:
        raise UserError("executor ray needs Ray Tune", str(error), "pip install 'sousvit[ray]'") from error
    return RayExecutor(budget, folder)


def _setup(budget: Budget, folder: Path) -> dict[str, Any]:
    return {"budget": budget.model_dump(mode="json"), "folder": str(folder.resolve())}


EXECUTORS: dict[str, Callable[[Budget, Path, Progress | None], Executor]] = {
    INLINE: inline_executor,
    "local": local_executor,
    "ray": ray_executor,
}
