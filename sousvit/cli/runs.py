"""Commands about runs: ``recipe``, ``retarget``, ``report``, ``compare``, ``watch`` and ``list``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sousvit.cli.app import (
    RUNS,
    AllowPlugins,
    Json,
    Plugins,
    Runs,
    Strict,
    app,
    exit_code,
    load_plugins,
    print_json,
    run_path,
)
from sousvit.errors import UnknownNameError, UserError

if TYPE_CHECKING:
    from sousvit.result import Result

OtherBudget = Annotated[Path | None, typer.Argument(metavar="BUDGET", help="another budget, if no --prefer")]

Prefer = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="what counts: latency, or latency=2; repeatable"),
]


@app.command("recipe")
def recipe_command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="a finished or interrupted run")],
    budget: OtherBudget = None,
    prefer: Prefer = None,
    trial: Annotated[
        str | None, typer.Option(metavar="KEY", help="a trial of the run instead, as its report names it")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="where to write the recipe")] = None,
    runs: Runs = RUNS,
    strict: Strict = False,
    plugins: Plugins = None,
    allow_plugins: AllowPlugins = False,
    as_json: Json = False,
) -> None:
    """Answer another budget from a run, without a new search."""
    from sousvit.runs import open_run

    if trial is not None and (budget is not None or prefer):
        raise UserError("a trial is taken as it is", "a budget or --prefer beside --trial", "leave it out")
    asked = None if trial is not None else _other_budget(budget, prefer)
    load_plugins(plugins)
    opened = open_run(run_path(runs, run), allow_plugins=allow_plugins)
    found = opened.answer(asked, prefer=_preference(prefer)) if trial is None else opened.trial(trial)
    _give_archive_answer(found, out, strict, as_json)


@app.command("retarget")
def retarget_command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="a finished or interrupted run")],
    budget: OtherBudget = None,
    prefer: Prefer = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="where to write the recipe")] = None,
    runs: Runs = RUNS,
    strict: Strict = False,
    plugins: Plugins = None,
    allow_plugins: AllowPlugins = False,
    as_json: Json = False,
) -> None:
    """Answer for other targets from a run, without a new search.

    Measures there the artifacts that the run kept, and trains nothing.
    """
    from sousvit.runs import open_run
    from sousvit.search.report.terminal import spinner

    asked = _other_budget(budget, prefer)
    load_plugins(plugins)
    opened = open_run(run_path(runs, run), allow_plugins=allow_plugins)
    with spinner("asking the devices", quiet=as_json) as progress:
        result = opened.retarget(asked, prefer=_preference(prefer), progress=progress)
    _give_archive_answer(result, out, strict, as_json)


@app.command("report")
def report_command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="a run")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="file, if not report.html in the run folder")] = None,
    form: Annotated[
        str | None, typer.Option("--format", metavar="NAME", help="html, md, json or png, if not as FILE ends")
    ] = None,
    no_images: Annotated[bool, typer.Option("--no-images", help="leave out images of the data")] = False,
    runs: Runs = RUNS,
    plugins: Plugins = None,
    allow_plugins: AllowPlugins = False,
    as_json: Json = False,
) -> None:
    """Write a run's report: a page, Markdown, JSON, or a picture."""
    from sousvit.runs import open_run

    load_plugins(plugins)
    found = open_run(run_path(runs, run), allow_plugins=allow_plugins)
    path = found.report(out, form, images=not no_images)
    for entry in found.changed:
        print(f"changed since this run measured it: {entry}", file=sys.stderr)
    print_json({"report": str(path)}) if as_json else print(path)


@app.command("compare")
def compare_command(
    run: Annotated[list[str], typer.Argument(metavar="RUN", help="two runs or more")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="page to write")] = None,
    runs: Runs = RUNS,
    plugins: Plugins = None,
    allow_plugins: AllowPlugins = False,
    as_json: Json = False,
) -> None:
    """Compare the answers and fronts of runs.

    Says where they are of other bases, data or targets.
    """
    from sousvit.runs import compare_runs
    from sousvit.search.report.compared import print_comparison
    from sousvit.search.report.terminal import console

    load_plugins(plugins)
    found = compare_runs([run_path(runs, name) for name in run], allow_plugins=allow_plugins)
    if out is not None:
        found.write(out)
    print_json(found.to_dict()) if as_json else print_comparison(console(), found)


@app.command("watch")
def watch_command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="a run, while it searches or afterwards")],
    port: Annotated[int, typer.Option(metavar="N", help="port on this machine; 0 takes a free one")] = 8765,
    runs: Runs = RUNS,
    plugins: Plugins = None,
    allow_plugins: AllowPlugins = False,
) -> None:
    """Serve a run's report on this machine, while the search runs.

    The page follows by itself. Ctrl-C ends it.
    """
    from sousvit.search.report.live import serve

    load_plugins(plugins)
    serve(run_path(runs, run), port, allow_plugins, lambda address: print(f"{address}  (Ctrl-C ends)", flush=True))


@app.command("list")
def list_command(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="what to list")],
    plugins: Plugins = None,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """List techniques, objectives, proposers, targets, spaces or runs."""
    from sousvit import tools
    from sousvit.runs import list_runs
    from sousvit.search.report.terminal import console, print_listing

    kinds: dict[str, Callable[[], list[dict[str, str]]]] = {
        "techniques": tools.list_techniques,
        "objectives": tools.list_objectives,
        "proposers": tools.list_proposers,
        "targets": tools.list_targets,
        "spaces": tools.list_spaces,
        "runs": lambda: list_runs(runs),
    }
    if what not in kinds:
        raise UnknownNameError("what to list", what, kinds)
    load_plugins(plugins)
    rows = kinds[what]()
    print_json(rows) if as_json else print_listing(console(), what, rows)


def _other_budget(budget: Path | None, prefer: list[str] | None) -> Path | None:
    if budget is None and not prefer:
        rule = "a run is asked with another budget or preference"
        raise UserError(rule, "neither", "give a budget YAML, or --prefer latency")
    return budget


def _preference(given: list[str] | None) -> dict[str, float] | None:
    """``latency=2`` as weights; a name alone weighs 1."""
    pairs = [entry.partition("=") for entry in given or ()]
    return {name: _number(text) if equals else 1.0 for name, equals, text in pairs} or None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError("a weight is a number", repr(text), "write for instance --prefer latency=2") from None


def _give_archive_answer(result: Result, out: Path | None, strict: bool, as_json: bool) -> None:
    from sousvit.search.report.terminal import console, print_archive_answer

    answer = result.answer
    if out is not None and answer.chosen is not None:
        result.write_recipe(out)
    if as_json:
        print_json(answer.to_dict())
    else:
        print_archive_answer(console(), answer, result.budget)
    sys.exit(exit_code(answer.status, strict))
