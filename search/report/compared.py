"""Runs beside each other in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from sousvit.search.report.page.compare import Comparison


def print_comparison(out: Console, comparison: Comparison) -> None:
    """The answers, a row a run, their recipes below, and what is not alike."""
    table = Table(box=SIMPLE)
    headings, rows = comparison.headings, comparison.rows
    for number, heading in enumerate(headings[:-1]):
        table.add_column(heading, justify="left" if number < 2 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row[:-1]))  # as it is: a name may look like rich's markup
    out.print(table)
    for row in rows:
        out.print(f"{row[0]}: {row[-1]}", highlight=False, markup=False)
    for warning in comparison.warnings:
        out.print(f"not alike: {warning}", style="yellow", highlight=False, markup=False)
