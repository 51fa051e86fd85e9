"""The command ``dashboard``."""

from __future__ import annotations

from typing import Annotated

import typer

from sousvit.cli.app import RUNS, Runs, app, run_path


@app.command("dashboard")
def dashboard_command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="a run, finished or not")],
    port: Annotated[int, typer.Option(min=1, max=65535, metavar="N", help="port on this machine")] = 8080,
    runs: Runs = RUNS,
) -> None:
    """Show a run's trials in optuna-dashboard.

    On this machine only, until Ctrl-C; needs pip install 'sousvit[dashboard]'.
    """
    from sousvit.search.report.dashboard import serve

    serve(run_path(runs, run), port)
