"""The terminal: live progress of a search, its answer, and what other commands print."""

from sousvit.search.report.terminal.answer import print_answer, print_archive_answer, print_limits, print_summary
from sousvit.search.report.terminal.console import Spinner, console, say, spinner, training_progress
from sousvit.search.report.terminal.facts import (
    print_applied,
    print_checked,
    print_facts,
    print_listing,
    print_measured,
    print_verification,
)
from sousvit.search.report.terminal.figures import headings, row_cells
from sousvit.search.report.terminal.json_lines import JsonLines
from sousvit.search.report.terminal.live import SearchView
from sousvit.search.report.terminal.table import answer_table, wide_table
from sousvit.search.report.terminal.trial_line import trial_line
from sousvit.search.report.terminal.words import by_reason, short_recipe, short_step, show, with_unit

__all__ = [
    "JsonLines",
    "SearchView",
    "Spinner",
    "answer_table",
    "by_reason",
    "console",
    "headings",
    "print_answer",
    "print_applied",
    "print_archive_answer",
    "print_checked",
    "print_facts",
    "print_limits",
    "print_listing",
    "print_measured",
    "print_summary",
    "print_verification",
    "row_cells",
    "say",
    "short_recipe",
    "short_step",
    "show",
    "spinner",
    "training_progress",
    "trial_line",
    "wide_table",
    "with_unit",
]
