"""Commands that search: ``search``, ``survey`` and ``replay``."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from sousvit.cli.app import (
    RUNS,
    AllowPlugins,
    DataRoot,
    Json,
    Plugins,
    Runs,
    Strict,
    app,
    command_begun,
    exit_code,
    load_plugins,
    print_json,
    run_path,
)
from sousvit.errors import INTERRUPTED

if TYPE_CHECKING:
    from sousvit.result import Result
    from sousvit.search.budget import Budget
    from sousvit.search.callbacks import Callback

RunName = Annotated[str | None, typer.Option("--run", metavar="NAME", help="run name; the same name again resumes")]

Wide = Annotated[bool, typer.Option("--wide", help="print the final table with all columns")]


class Progress(str, Enum):
    """How progress is told on stderr."""

    AUTO = "auto"
    JSON = "json"
    NONE = "none"


ShowProgress = Annotated[Progress, typer.Option("--progress", metavar="HOW", help="on stderr: auto, json, none")]

T = TypeVar("T")


@app.command("search")
def search_command(
    budget: Annotated[Path, typer.Argument(metavar="BUDGET", help="budget YAML")],
    run: RunName = None,
    trials: Annotated[int | None, typer.Option(min=1, metavar="N", help="trials at most")] = None,
    time: Annotated[
        str | None, typer.Option(metavar="TIME", help="time at most, the answer included, such as 30m")
    ] = None,
    executor: Annotated[
        str | None, typer.Option(metavar="NAME", help="where trials run: local, ray, or inline (this process)")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, metavar="N", help="seed of everything random")] = None,
    earlier: Annotated[str | None, typer.Option("--from", metavar="RUN", help="earlier run to continue from")] = None,
    data_root: DataRoot = None,
    runs: Runs = RUNS,
    strict: Strict = False,
    allow_plugins: AllowPlugins = False,
    wide: Wide = False,
    progress: ShowProgress = Progress.AUTO,
    as_json: Json = False,
) -> None:
    """Search for the best recipe within a budget.

    Shows progress, then the answer. Exit code 3: nothing fits.
    """
    from sousvit.api import Search
    from sousvit.search.budget import Budget, require_sound

    begun = command_begun()
    asked = Budget.read(budget, data_root, trials=trials, time=time, seed=seed)
    require_sound(asked)
    folder = run_path(runs, run or _new_name(budget.stem))
    before = None if earlier is None else run_path(runs, earlier)

    def optimize(view: Callback) -> Result:
        told = {"executor": executor, "callbacks": [view], "earlier": before, "allow_plugins": allow_plugins}
        return Search(asked, run=folder, begun=begun, **told).optimize()  # type: ignore[arg-type]

    command = _command("resume", folder.name, runs, {}, strict=strict)
    result = _watched(optimize, asked, folder, command, _quiet(progress, as_json), begun)
    _print_result(result, asked, folder, strict, wide, as_json)


@app.command("resume")
def resume_command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="an interrupted run, or one whose answer lacks rows")],
    time: Annotated[str | None, typer.Option(metavar="TIME", help="what this may take, such as 10m")] = None,
    trials: Annotated[int | None, typer.Option(min=1, metavar="N", help="trials of the run in all")] = None,
    runs: Runs = RUNS,
    strict: Strict = False,
    allow_plugins: AllowPlugins = False,
    wide: Wide = False,
    progress: ShowProgress = Progress.AUTO,
    as_json: Json = False,
) -> None:
    """Go on with a run as it was begun.

    With its search, its answer, or the rows that its answer lacks.
    """
    from sousvit.api import resume
    from sousvit.search.stored.resumed import resumed

    begun, folder = command_begun(), run_path(runs, run)
    asked = resumed(folder, time, trials, allow_plugins).budget

    def go_on(view: Callback) -> Result:
        more = {"time": time, "trials": trials, "callbacks": [view], "allow_plugins": allow_plugins}
        return resume(folder, begun=begun, **more)  # type: ignore[arg-type]

    given = {"time": time, "trials": trials}
    command = _command("resume", run, runs, given, strict=strict, allow_plugins=allow_plugins)
    result = _watched(go_on, asked, folder, command, _quiet(progress, as_json), begun)
    _print_result(result, asked, folder, strict, wide, as_json)


def _print_result(result: Result, asked: Budget, folder: Path, strict: bool, wide: bool, as_json: bool) -> None:
    """The answer; ends with its exit code."""
    from sousvit.search.report.terminal import console, print_answer

    if as_json:
        print_json({"run": str(folder), **result.answer.to_dict()})
    else:
        print_answer(console(), result.answer, asked, folder, folder / "report.html", wide)
    sys.exit(exit_code(result.status, strict))


@app.command("study", hidden=True)
@app.command("survey")
def survey_command(
    budget: Annotated[Path, typer.Argument(metavar="BUDGET", help="budget YAML; its space says what is measured")],
    run: RunName = None,
    data_root: DataRoot = None,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Measure each technique of a space alone, and named combinations.

    Writes a table and a plot of them, all measured in one run.
    """
    from sousvit.api import survey
    from sousvit.search.budget import Budget, require_sound
    from sousvit.search.report.terminal import console

    asked = Budget.read(budget, data_root)
    require_sound(asked)
    folder = run_path(runs, run or _new_name(f"{budget.stem}-survey"))
    command = _command("survey", str(budget), runs, {"data-root": data_root, "run": folder.name})
    shown, begun = _quiet(Progress.AUTO, as_json), command_begun()
    found = _watched(lambda view: survey(asked, run=folder, callbacks=[view]), asked, folder, command, shown, begun)
    if as_json:
        print_json({"run": str(folder), "trials": [trial.to_dict() for trial in found.archive]})
    else:
        files = {"table": "study.md", "plot": "study.html", "raw": "study.csv"}
        for what, name in files.items():
            console().print(f"{what:<8} {folder / name}", highlight=False)


@app.command("replay")
def replay_command(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="YAML that describes a recorded table")],
    policy: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="a policy, repeatable; default: sousvit, tpe, nsga2, random"),
    ] = None,
    evaluations: Annotated[int, typer.Option(min=1, metavar="N", help="evaluations that each policy gets")] = 164,
    seconds: Annotated[
        float | None, typer.Option(min=1, metavar="S", help="recorded seconds that it gets instead")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="replays of each policy")] = 30,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="processes that replay")] = 1,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="folder for every curve, the table and a plot")
    ] = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Compare search policies on a recorded table.

    Tells hypervolume against evaluations and time, over many seeds.
    """
    from sousvit.search.replay.compare import markdown
    from sousvit.search.report.terminal import console, spinner
    from sousvit.tools import replay

    load_plugins(plugins)
    amount = {"evaluations": evaluations, "seconds": seconds, "seeds": seeds, "workers": workers}
    with spinner("replaying", quiet=as_json) as progress:
        comparison = replay(table, policy, **amount, out=out, progress=progress)  # type: ignore[arg-type]
    if as_json:
        print_json(comparison.to_dict())
    else:
        console().print(markdown(comparison), highlight=False)


def _quiet(progress: Progress, as_json: bool) -> Progress:
    """Nothing beside JSON on stdout, unless progress is asked for by name."""
    return Progress.NONE if as_json and progress is Progress.AUTO else progress


def _watched(
    run: Callable[[Callback], T], budget: Budget, folder: Path, command: str, progress: Progress, begun: float
) -> T:
    """Run with live progress; interrupted, it says how to go on and ends with exit code 130."""
    from sousvit.search.callbacks import Callback
    from sousvit.search.report.terminal import JsonLines, SearchView, console

    before = signal.signal(signal.SIGTERM, _interrupt)  # Slurm and Kubernetes send it; background jobs ignore Ctrl-C
    views = {Progress.AUTO: SearchView, Progress.JSON: JsonLines}
    try:
        if progress is Progress.NONE:
            return run(Callback())
        with views[progress](budget, folder, begun) as view:
            return run(view)
    except KeyboardInterrupt:
        told = f"interrupted; go on with: sousvit {command}"
        console(stderr=True).print(told, highlight=False, markup=False, soft_wrap=True)
        sys.exit(INTERRUPTED)
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _command(verb: str, what: str, runs: Path, given: Mapping[str, object], **flags: bool) -> str:
    """The command that goes on with this one's options."""
    given = {**given, "runs": None if runs == RUNS else runs}
    options = (part for name, value in given.items() if value is not None for part in (f"--{name}", str(value)))
    said = (f"--{name.replace('_', '-')}" for name, is_set in flags.items() if is_set)
    return shlex.join([verb, what, *options, *said])


def _new_name(stem: str) -> str:
    from sousvit.search.archive import new_run_name

    return new_run_name(stem)
