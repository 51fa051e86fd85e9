"""Commands about one recipe or artifact: ``apply``, ``measure`` and ``verify``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sousvit.cli.app import INFEASIBLE, DataRoot, Json, Plugins, Strict, app, exit_code, load_plugins, print_json


@app.command("apply")
def apply_command(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="recipe YAML, as a search writes it")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="folder for the artifact")],
    model: Annotated[
        str | None, typer.Option(metavar="FILE", help="checkpoint, or YAML with model, if not the recipe's")
    ] = None,
    data: Annotated[Path | None, typer.Option(metavar="FILE", help="YAML with data, if not the recipe's")] = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Reproduce the compressed, exported model of a recipe.

    Compares with the figures it recorded. Exit code 3: they disagree.
    """
    from sousvit.search.judging.build import read_data
    from sousvit.search.report.terminal import console, print_applied, spinner
    from sousvit.tools import build

    load_plugins(plugins)
    with spinner("applying the recipe", quiet=as_json) as progress:
        train = None if data is None else read_data(data)
        built = build(recipe, model, out=out, train=train, progress=progress)
    print_json(built.to_dict()) if as_json else print_applied(console(), built.to_dict())
    if built.agrees is False:
        sys.exit(INFEASIBLE)


@app.command("measure")
def measure_command(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="artifact folder")],
    baseline: Annotated[Path | None, typer.Option(metavar="ARTIFACT", help="artifact folder to compare with")] = None,
    target: Annotated[str, typer.Option(metavar="TARGET", help="profile, or a YAML file")] = "local-1-thread",
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Measure an artifact: latency, size and memory.

    With intervals; a baseline is timed in turns with it.
    """
    from sousvit.search.report.terminal import console, print_measured, spinner
    from sousvit.tools import measure

    load_plugins(plugins)
    with spinner("measuring", quiet=as_json):
        measured = measure(artifact, baseline=baseline, target=target)
    print_json(measured.to_dict()) if as_json else print_measured(console(), measured.to_dict())


@app.command("verify")
def verify_command(
    what: Annotated[Path, typer.Argument(metavar="WHAT", help="recipe YAML, artifact folder, or bundle")],
    budget: Annotated[Path, typer.Argument(metavar="BUDGET", help="budget YAML: model, data, target and limits")],
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="JUnit XML to write, a test case a limit")] = None,
    data_root: DataRoot = None,
    strict: Strict = False,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Hold a recipe or artifact against a budget's limits.

    Judges on the test split. Exit code 3: a limit is broken.
    """
    from sousvit.search.budget import Budget
    from sousvit.search.report.terminal import console, print_verification, spinner
    from sousvit.tools import verify

    load_plugins(plugins)
    asked = Budget.read(budget, data_root)
    with spinner("verifying", quiet=as_json) as progress:
        found = verify(what, asked, junit=junit, strict=strict, progress=progress)
    print_json(found.to_dict()) if as_json else print_verification(console(), found)
    sys.exit(exit_code(found.status, strict))
