"""Tables of recipes with their figures: five columns that fit 80, or all columns."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.table import Table

from sousvit.objectives.objective import Measurement, get_objective
from sousvit.search.budget import Budget
from sousvit.search.preference.alternatives import ANSWER
from sousvit.search.report.terminal.figures import costs_asked, headings, interval, lost_points, row_cells
from sousvit.search.report.terminal.words import short_recipe, show
from sousvit.search.results import Answer, Row
from sousvit.search.trial import Trial, quality_of, word_of

#: The least that the first column is wide: a technique's name and its parameters.
FIRST_COLUMN = 20


def answer_table(answer: Answer, budget: Budget) -> Table:
    """Base, best single technique, the recipe, and the recipe without each technique; all on the same images.

    Five columns: the row with its recipe, how good it is, what it loses, and the two costs that the budget asks of
    first; intervals stand below their figures.
    """
    title = f"measured in one session on {answer.images or budget.data.final_name}; {budget.where}"
    values = answer.rows[0].values
    costs = costs_asked(budget, values)[:2]
    table = Table(title=title, title_justify="left", box=SIMPLE, pad_edge=False)
    table.add_column("", overflow="fold", min_width=FIRST_COLUMN)
    for heading in (f"{word_of(values)} %", "points", *(_cost_heading(name, values) for name in costs)):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in answer.rows:
        style = "bold" if row.role == "recipe" else ""
        table.add_row(_named(row), *_quality_cells(row), *(_cost_cell(name, row) for name in costs), style=style)
    return table


def _named(row: Row) -> str:
    """A row's name, and its recipe where the name does not say it."""
    is_base = not row.recipe["steps"]
    return row.role if is_base else f"{row.role}\n{short_recipe(row.recipe)}"


def _quality_cells(row: Row) -> tuple[str, str]:
    quality = quality_of(row.values)
    drop = row.values[f"{quality}_drop"]
    return f"{100 * row.values[quality].value:.2f}", _below(lost_points(drop))


def _cost_heading(name: str, values: dict[str, Measurement]) -> str:
    usual = {"latency": "speed-up", "size": "smaller"}.get(name, f"less {name}")
    return usual if f"{name}_ratio" in values else f"{name}, {get_objective(name).unit}"


def _cost_cell(name: str, row: Row) -> str:
    ratio = row.values.get(f"{name}_ratio")
    if ratio is None or ratio.value <= 0:
        return _below(show(row.values[name])) if name in row.values else "-"
    return _below(interval(1 / ratio.value, ratio, lambda value: 1 / value, "{:.2f}", "x"))


def _below(figure: str) -> str:
    """The interval of a figure on the next line."""
    return figure.replace(" [", "\n[", 1)


def wide_table(answer: Answer, budget: Budget) -> Table:
    """The same rows with all columns."""
    title = f"measured in one session on {answer.images or budget.data.final_name}; {budget.where}"
    rows = [(row.role, row_cells(row.values, budget), short_recipe(row.recipe)) for row in answer.rows]
    names = ("", *headings(budget, answer.rows), "recipe")
    cells = [(role, *figures, recipe) for role, figures, recipe in rows]
    width = sum(max(map(len, column)) + 3 for column in zip(names, *cells, strict=True)) + 1
    table = Table(title=title, title_justify="left", width=width)
    table.add_column("")
    for heading in names[1:-1]:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("recipe", no_wrap=True)
    for row in cells:
        table.add_row(*row, style="bold" if row[0] == "recipe" else "")
    return table


def archive_table(answer: Answer, budget: Budget) -> Table:
    """The answer and the best single technique by the search's figures."""
    named = [("recipe" if answer.feasible else "nearest miss", answer.chosen), ("best single", answer.single)]
    title = f"from the archive, on {budget.data.validation_name}; {budget.where}"
    return _plain_table(title, [(name, trial) for name, trial in named if trial is not None], budget)


def alternatives_table(answer: Answer, budget: Budget) -> Table:
    """The answer and what else could have been chosen, by the search's figures."""
    rows = [(", ".join(one.names), one.trial) for one in answer.alternatives]
    return _plain_table(f"what could have been chosen, on {budget.data.validation_name}", rows, budget, ANSWER)


def _plain_table(title: str, rows: list[tuple[str, Trial]], budget: Budget, bold: str = "") -> Table:
    """Trials with the quality and three costs at most, in their units, so that it fits 80 columns."""
    values = rows[0][1].values
    quality = quality_of(values)
    asked = dict.fromkeys([quality, *costs_asked(budget, values)])
    names = [name for name in asked if any(name in trial.values for _, trial in rows)][:4]
    table = Table(title=title, title_justify="left", box=SIMPLE, pad_edge=False)
    table.add_column("", overflow="fold", min_width=FIRST_COLUMN)
    for name in names:
        unit = get_objective(name).unit
        table.add_column(f"{name}\n{'%' if unit == 'share' else unit}", justify="right", no_wrap=True)
    for name, trial in rows:
        cells = [_plain_figure(column, trial) for column in names]
        style = "bold" if bold and name.split(", ")[0] == bold else ""
        table.add_row(f"{name}\n{short_recipe(trial.recipe)}", *cells, style=style)
    return table


def _plain_figure(name: str, trial: Trial) -> str:
    if name not in trial.values:
        return "-"
    value = trial.values[name].value
    return f"{100 * value:.2f}" if get_objective(name).unit == "share" else f"{value:.4g}"
