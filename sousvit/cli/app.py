"""The application, what several commands take, and how they print and end."""

from __future__ import annotations

import json
import time
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from sousvit import __version__
from sousvit.faults.ulimits import require_ulimits
from sousvit.machine import reserved_stdout

if TYPE_CHECKING:
    from sousvit.search.verdict import Status

INFEASIBLE, NOT_SHOWN = 3, 4

#: Commands that load no model.
LIGHT = frozenset({None, "compare", "dashboard", "list", "recipe", "replay", "report", "schema", "watch"})

app = typer.Typer(
    name="sousvit",
    help="Compress a Vision Transformer to a hardware budget: the best recipe of combined techniques, exported and\n"
    "measured.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

#: When the command began, by ``time.monotonic()``: importing what it needs is part of its time.
_BEGUN: ContextVar[float] = ContextVar("begun")

#: Where a command with ``--json`` prints.
_OUT: ContextVar[TextIO] = ContextVar("out")


def _reserve_stdout(context: typer.Context, as_json: bool) -> bool:
    """Whatever libraries print must not stand between a program and the JSON that it reads."""
    if as_json:
        _OUT.set(context.with_resource(reserved_stdout()))
    return as_json


Json = Annotated[bool, typer.Option("--json", help="print JSON on stdout", callback=_reserve_stdout)]

Strict = Annotated[bool, typer.Option("--strict", help="exit code 4 where a limit was not shown to hold")]

Runs = Annotated[Path, typer.Option("--runs", metavar="DIR", help="folder that holds the run folders")]

RUNS = Path("runs")

DataRoot = Annotated[
    Path | None,
    typer.Option("--data-root", metavar="DIR", help="where relative data paths start, if not beside the YAML"),
]

Plugins = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE", help="plug-ins: file.py, file.py:Class, or a budget; repeatable"),
]

AllowPlugins = Annotated[
    bool, typer.Option("--allow-plugins", help="run the code that a run names, even if you never named it")
]


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="print the version")] = False
) -> None:
    _BEGUN.set(time.monotonic())
    if version:
        print(__version__)
        raise typer.Exit
    require_ulimits(computing=context.invoked_subcommand not in LIGHT)


def command_begun() -> float:
    """When the command began, by ``time.monotonic()``."""
    return _BEGUN.get()


def load_plugins(plugins: list[str] | None) -> None:
    """Make known what ``--plugins`` names, for a command that has no budget to name it."""
    if plugins:
        from sousvit.search.plugins import load_named

        load_named(plugins)


def exit_code(status: Status, strict: bool) -> int:
    """The command's exit code for a verdict."""
    if status == "infeasible":
        return INFEASIBLE
    return NOT_SHOWN if strict and status != "holds" else 0


def run_path(runs: Path, name: str) -> Path:
    """The folder of a run, whose name may not lead elsewhere."""
    from sousvit.search.archive import run_folder

    return run_folder(runs, name)


def print_json(value: Any) -> None:
    """Print for a program that reads it."""
    print(json.dumps(value, indent=1, default=str), file=_OUT.get(), flush=True)
