"""``sousvit search``: the live view around a run."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sousvit.errors import UnknownNameError, UserError
from sousvit.schema import read_yaml
from sousvit.search.archive import run_folder
from sousvit.search.budget import Budget, make_budget
from sousvit.search.callbacks import Hooks
from sousvit.search.executors.executor import Executor, Progress
from sousvit.search.executors.local import LocalExecutor
from sousvit.search.judging.worker import serve
from sousvit.search.report.terminal import SearchView, console, print_answer
from sousvit.search.run import search

INTERRUPTED = 130
T = TypeVar("T")


def local_executor(budget: Budget, folder: Path, progress: Progress | None = None) -> LocalExecutor:
    """One worker process on this machine."""
    memory = budget.search.trial_memory_gb
    setup = {"budget": budget.model_dump(mode="json"), "folder": str(folder.resolve())}
    return LocalExecutor(serve, setup, None if memory is None else memory * 1e9, progress)


def _ray_executor(budget: Budget, folder: Path, progress: Progress | None = None) -> Executor:
    """Workers on a Ray cluster; what each does at the moment is not told."""
    try:
        from sousvit.search.executors.ray.tune import RayExecutor
    except ImportError as error:
        raise UserError("--executor ray needs Ray Tune", str(error), "pip install 'sousvit[ray]'") from error
    return RayExecutor(budget, folder)


EXECUTORS: dict[str, Callable[[Budget, Path, Progress], Executor]] = {"local": local_executor, "ray": _ray_executor}


def _executor_maker(name: str) -> Callable[[Budget, Path, Progress], Executor]:
    if name not in EXECUTORS:
        raise UnknownNameError("executor", name, EXECUTORS)
    return EXECUTORS[name]


def run_search(
    path: Path,
    name: str | None,
    overrides: dict[str, Any],
    executor: str | None,
    runs: Path,
    as_json: bool,
    earlier: str | None = None,
    data_root: Path | None = None,
) -> int:
    """Run the search and print its answer; returns the exit code."""
    budget = _with_overrides(path, overrides, data_root)
    make = _executor_maker(executor or ("local" if budget.ray is None else "ray"))
    folder = run_folder(runs, name or f"{path.stem}-{time.strftime('%Y%m%d-%H%M%S')}")
    begin = partial(search, earlier=None if earlier is None else run_folder(runs, earlier))
    answer = _watched(begin, budget, folder, _command("search", path, data_root, executor), as_json, make)
    if answer is None:
        return INTERRUPTED
    from sousvit.search.report.html import write_report

    # Nothing to report where the time was over before a trial had finished.
    report = folder if answer.chosen is None else write_report(folder)
    if as_json:
        print(json.dumps({"run": str(folder), **answer.to_dict()}, indent=1, default=str))
    else:
        print_answer(console(), answer, budget, folder, report)
    return 0 if answer.feasible else 3


def _command(verb: str, path: Path, data_root: Path | None, executor: str | None = None) -> str:
    given = {"executor": executor, "data-root": data_root}
    return " ".join([f"{verb} {path}", *(f"--{name} {value}" for name, value in given.items() if value is not None)])


def study(path: Path, name: str | None, runs: Path, as_json: bool, data_root: Path | None = None) -> int:
    """Run the study and say where its table and plot are; returns the exit code."""
    from sousvit.search.report.survey import write_survey
    from sousvit.search.survey import run_survey

    budget = _with_overrides(path, {}, data_root)
    folder = run_folder(runs, name or f"{path.stem}-study-{time.strftime('%Y%m%d-%H%M%S')}")
    archive = _watched(run_survey, budget, folder, _command("study", path, data_root), as_json)
    if archive is None:
        return INTERRUPTED
    table, page = write_survey(archive, folder)
    if as_json:
        print(json.dumps({"run": str(folder), "trials": [trial.to_dict() for trial in archive]}, indent=1))
    else:
        console().print(f"table    {table}\nplot     {page}\nraw      {folder / 'study.csv'}", highlight=False)
    return 0


def _watched(
    run: Callable[[Budget, Path, Callable[[Budget, Path], Executor], Hooks], T],
    budget: Budget,
    folder: Path,
    command: str,
    quiet: bool,
    make: Callable[[Budget, Path, Progress], Executor] = local_executor,
) -> T | None:
    """Run with live progress; None when interrupted, after saying how to resume."""
    before = signal.signal(signal.SIGTERM, _interrupt)  # Slurm and Kubernetes send it; background jobs ignore Ctrl-C
    view = SearchView(budget, folder, quiet=quiet)
    hooks = Hooks(say=view.say, ready=view.ready, watcher=view.watcher)
    try:
        with view:
            return run(budget, folder, lambda b, f: make(b, f, view.progress), hooks)
    except KeyboardInterrupt:
        resume = f"interrupted; resume with: sousvit {command} --run {folder.name}"
        console(stderr=True).print(resume, highlight=False)
        return None
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _with_overrides(path: Path, overrides: dict[str, Any], data_root: Path | None = None) -> Budget:
    value = read_yaml(path)
    given = {name: entry for name, entry in overrides.items() if entry is not None}
    if given and isinstance(value.get("search", {}), dict):
        value["search"] = {**(value.get("search") or {}), **given}
    return make_budget(value, path.parent, str(path), data_root)
