"""Commands about budgets: ``init``, ``check`` and ``schema``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sousvit.cli.app import DataRoot, Json, Plugins, app, load_plugins, print_json


@app.command("init")
def init_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="checkpoint, or timm's name")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="folder or file of training images")],
    target: Annotated[str, typer.Option(metavar="TARGET", help="target profile, or a YAML file")] = "local-1-thread",
    out: Annotated[Path, typer.Option(metavar="FILE", help="budget YAML to write")] = Path("budget.yaml"),
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Write a first budget for a model and its data, with comments."""
    from sousvit.initial import init

    load_plugins(plugins)
    path = init(model, data, target=target, out=out)
    print_json({"budget": str(path)}) if as_json else print(f"{path}: look it over, then: sousvit check {path}")


@app.command("check")
def check_command(
    budget: Annotated[Path, typer.Argument(metavar="BUDGET", help="budget YAML")],
    sheet: Annotated[Path, typer.Option(metavar="FILE", help="PNG of images as the model sees them")] = Path(
        "check.png"
    ),
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Do what a search does before its first trial, and no more."""
    from sousvit.search.budget import Budget, require_sound
    from sousvit.search.report.terminal import console, print_checked, spinner
    from sousvit.tools import check

    asked = Budget.read(budget, data_root)
    require_sound(asked)
    with spinner("checking", quiet=as_json) as progress:
        checked = check(asked, sheet=sheet, progress=progress)
    print_json(checked.to_dict()) if as_json else print_checked(console(), checked, asked)


@app.command("schema")
def schema_command(
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="JSON file to write instead")] = None,
    as_json: Json = False,
) -> None:
    """Print the JSON schema of budgets, for editors."""
    from sousvit.files import write_atomic
    from sousvit.tools import schema

    text = json.dumps(schema(), indent=1)
    if out is None:
        print(text)
    else:
        write_atomic(out, text)
        print_json({"schema": str(out)}) if as_json else print(out)
