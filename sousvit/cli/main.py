"""The entry point: the commands, and what their errors become."""

from __future__ import annotations

import sys
from pathlib import Path

from sousvit.cli.app import app
from sousvit.errors import BAD_INPUT, TrialError, UserError
from sousvit.faults import told_fault

# isort: off
from sousvit.cli import searching, budgets, runs, dashboard, artifacts, bundles, models, devices  # noqa: F401 - in the order of the help
# isort: on


def main() -> None:
    """Entry point: typer with our exit codes."""
    sys.argv[1:] = [_at_home(argument) for argument in sys.argv[1:]]
    try:
        app()
    except UserError as error:
        print(f"sousvit: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except TrialError as error:
        found = told_fault(error) or f"the model could not be built or trained; {error}"
        print(f"sousvit: {found}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except BrokenPipeError:
        sys.exit(1)


def _at_home(argument: str) -> str:
    """``~`` as the user's home, also in ``--out=~/x`` and in quotes, where shells leave it as it is."""
    option, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
    if value != "~" and not value.startswith("~/"):
        return argument
    return f"{option}{equals}{Path(value).expanduser()}"
