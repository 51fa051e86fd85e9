"""The answer of a search as it is printed: three lines that say it all, then how it was found and where it lies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sousvit.objectives.objective import Measurement, get_objective
from sousvit.search.budget import Budget
from sousvit.search.report.terminal.console import say
from sousvit.search.report.terminal.figures import compared, costs_asked, lost_points
from sousvit.search.report.terminal.table import alternatives_table, answer_table, archive_table, wide_table
from sousvit.search.report.terminal.words import short_recipe
from sousvit.search.results import Answer
from sousvit.search.trial import quality_of, word_of
from sousvit.search.verdict import JudgedLimit

#: Colours of a verdict, of one limit and of all together.
COLOURS = {
    "holds": "green",
    "not shown": "yellow",
    "not shown on the test split": "yellow",
    "broken": "red",
    "infeasible": "red",
}
#: A limit's verdict in a word.
WORDS = {"holds": "ok", "not shown": "not shown", "broken": "missed"}


def print_answer(out: Console, answer: Answer, budget: Budget, folder: Path, report: Path, wide: bool = False) -> None:
    """The answer in three lines, the final table, and where everything lies.

    Args:
        wide: a table of all columns, however wide it gets.
    """
    if answer.chosen is None:
        say(out, "no trial finished")
        print_notes(out, answer.notes)
        return
    print_summary(out, answer, budget)
    if answer.rows:
        out.print(wide_table(answer, budget) if wide else answer_table(answer, budget), soft_wrap=wide or None)
    _print_verdict(out, answer)
    _print_choice(out, answer, budget)
    print_notes(out, answer.notes)
    name = "recipe.yaml" if answer.feasible else "nearest-miss.yaml"
    model = {"model": folder / "artifacts" / "recipe"} if answer.rows else {}
    bundle = folder / "bundle"
    handed = {"bundle": bundle} if bundle.is_dir() else model
    for what, place in {"recipe": folder / name, **handed, "report": report}.items():
        out.print(f"{what:<9}{place}", highlight=False, markup=False, soft_wrap=True)  # a path is copied whole
    _print_cost(out, answer)


def print_summary(out: Console, answer: Answer, budget: Budget) -> None:
    """Three lines: the recipe; how fast, small and good it is; every limit, with the images that it was judged on."""
    assert answer.chosen is not None
    values = answer.chosen.values if answer.row is None else answer.row.values
    label = "recipe" if answer.feasible else "nearest"
    say(out, short_recipe(answer.chosen.recipe), label, "bold")
    say(out, ", ".join(_gains(values, budget)), "figures")
    said = ", ".join(f"{limit.name} {_verdict(limit)}" for limit in answer.limits) or "none asked for"
    worst = max(answer.limits, key=lambda limit: list(WORDS).index(limit.verdict), default=None)
    say(out, said, "limits", "" if worst is None else COLOURS[worst.verdict])


def _verdict(limit: JudgedLimit) -> str:
    return WORDS[limit.verdict] + (f" on {limit.images}" if limit.images else "")


def _gains(values: dict[str, Measurement], budget: Budget) -> list[str]:
    """How much faster and smaller than the base, and how good; of what else is optimised the figure."""
    found = []
    for name in costs_asked(budget, values):
        own, ratio = values[name], values.get(f"{name}_ratio")
        figure = f"{own.value:.4g} {get_objective(name).unit}"
        found.append(figure if ratio is None or ratio.value <= 0 else f"{compared(name, ratio)} ({figure})")
    quality = quality_of(values)
    if quality in values:
        drop = values.get(f"{quality}_drop")
        lost = "" if drop is None else f" ({lost_points(drop, ' points')})"
        found.append(f"{word_of(values)} {100 * values[quality].value:.2f}%{lost}")
    return found


def _print_cost(out: Console, answer: Answer) -> None:
    cost = answer.cost
    if not cost:
        return
    wall, cores = cost["wall_seconds"] / 60, cost["core_hours"]
    answered = f", {cost['answer_seconds'] / 60:.1f} min of it the answer" if "answer_seconds" in cost else ""
    say(out, f"{wall:.1f} min{answered}, {cores:.2f} core-hours, {cost['trials']:.0f} trials", "cost")
    if cost.get("prepare_seconds"):
        say(out, f"{cost['prepare_seconds'] / 60:.1f} min of it prepared the base", "elastic")
    saved = cost.get("gates_saved_seconds", 0.0) / 60
    if saved:
        say(out, f"{cost['gated']:.0f} trials were never trained or judged: about {saved:.1f} min saved", "gates")


def print_archive_answer(out: Console, answer: Answer, budget: Budget) -> None:
    """An answer from the archive: figures on what the search judged on."""
    if answer.chosen is None:
        say(out, "infeasible: the archive holds no finished trial that could be measured")
        print_notes(out, answer.notes)
        return
    print_summary(out, answer, budget)
    out.print(archive_table(answer, budget))
    _print_verdict(out, answer)
    _print_choice(out, answer, budget)
    print_notes(out, answer.notes)


def _print_verdict(out: Console, answer: Answer) -> None:
    said: str = answer.status
    if not answer.feasible:
        said = f"infeasible: no recipe holds every limit. The nearest miss violates {'; '.join(answer.violated)}"
    say(out, said, "status", COLOURS[answer.status])
    print_limits(out, answer.limits)


def _print_choice(out: Console, answer: Answer, budget: Budget) -> None:
    """Why this one, and the others where there are any."""
    if answer.reason:
        say(out, answer.reason, "why")
    if len(answer.alternatives) > 1:
        out.print(alternatives_table(answer, budget))


def print_limits(out: Console, limits: Sequence[JudgedLimit]) -> None:
    """A line a limit: its figure, on which images, the bound, and whether it was shown to hold."""
    for limit in limits:
        say(out, str(limit), "limit", COLOURS[limit.verdict])


def print_notes(out: Console, notes: Sequence[str]) -> None:
    """What a reader must know besides."""
    for note in notes:
        say(out, f"note: {note}")
