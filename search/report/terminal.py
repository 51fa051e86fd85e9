"""The terminal view: live progress of a search, and the tables at its end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from sousvit.objectives.objective import Measurement, get_objective
from sousvit.search.budget import Budget
from sousvit.search.callbacks import Callback, Counts
from sousvit.search.judging.comparison import Compared
from sousvit.search.preference.alternatives import ANSWER
from sousvit.search.results import Answer, Row
from sousvit.search.trial import BaseRecord, Trial, quality_of, word_of
from sousvit.search.verdict import JudgedLimit
from sousvit.spaces.recipe import Recipe

if TYPE_CHECKING:
    from sousvit.search.check import Checked
    from sousvit.search.judging.verification import Verification
    from sousvit.spaces.space import Space


#: Column headings for :func:`row_cells`, behind the task's figure of merit.
HEADINGS = ("drop, points", "p50 ms", "speed-up", "MB", "smaller", "M params", "MMACs", "EER")


def console(stderr: bool = False) -> Console:
    """A console; without a terminal lines are wide enough for a log."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, soft_wrap=True, width=None if stream.isatty() else 160)


#: Said once on a line of their own where there is no live bar.
SLOW_PARTS = frozenset(
    {"loading model and data", "teacher", "synthesising images", "training a generator", "timing all rows, interleaved"}
)
#: Beginnings of progress that says what cannot be known before.
TOLD = ("building: ", "teacher: ")


class SearchView(Callback):
    """Live progress on stderr: a line a trial, and what is being done right now.

    Args:
        quiet: print nothing (``--json``).
    """

    def __init__(self, budget: Budget, folder: Path, quiet: bool = False) -> None:
        self._console = console(stderr=True)
        self._budget, self._folder, self._quiet = budget, folder, quiet
        self._bar = _bar(self._console, disable=quiet or not self._console.is_terminal)
        self._task = self._bar.add_task("starting", total=None)
        self._what, self._current, self._best = "", "", -float("inf")

    def __enter__(self) -> SearchView:
        self._bar.start()
        limits = ", ".join(map(str, self._budget.hard_limits)) or "none"
        self.on_message(f"run {self._folder}; target {self._budget.where}")
        self.on_message(f"limits: {limits}; optimise {', '.join(self._budget.optimize)}{_preferred(self._budget)}")
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def on_message(self, text: str) -> None:
        """Print a line above the bar."""
        if not self._quiet:
            self._bar.console.print(text, highlight=False, markup=False)

    def on_start(self, base: BaseRecord, space: Space, left_out: Mapping[str, str]) -> None:
        """Tell the base's figures and the space."""
        figures = ", ".join(
            f"{name} {with_unit(name, base.values[name])}"
            for name in (quality_of(base.values), "latency", "size", "macs")
            if name in base.values
        )
        self.on_message(f"base (ONNX Runtime fp32, {self._budget.data.validation_name}): {figures}")
        for reason, names in by_reason(left_out).items():
            self.on_message(f"left out: {', '.join(names)} ({reason})")
        self.on_message(f"space: {space.size:,} combinations")

    def on_progress(self, what: str, done: int, total: int) -> None:
        """What the worker is doing."""
        self._bar.update(
            self._task, description=f"{self._current} {what}".strip()[:70], completed=done, total=total or None
        )
        if what != self._what and not self._console.is_terminal and what in SLOW_PARTS:
            self.on_message(f"  ... {what}")
        if what.startswith(TOLD) and what != self._what:
            self.on_message(f"  ... {what}")
        self._what = what

    def on_begin(self, origin: str, recipe: Recipe, fidelity: float) -> None:
        self._current = f"[{origin}]"

    def on_trial(self, trial: Trial, counts: Counts) -> None:
        self.on_message(trial_line(trial, counts, self._budget))


def trial_line(record: Trial, counts: Counts, budget: Budget) -> str:
    """Such as ``#12   14.2 s  fits: accuracy 0.912 latency_ratio 0.41 | prune_mlp(0.5) + onnxruntime (proposed)``."""
    found = {"complete": _result, "gated": lambda *_: record.message, "failed": lambda *_: f"FAILED: {record.message}"}
    head = f"#{counts.finished:<3d} {sum(record.seconds.values()):5.1f} s  {found[record.status](record, budget)}"
    return f"{head} | {short_recipe(record.recipe)} ({record.origin})"


def _result(record: Trial, budget: Budget) -> str:
    broken = budget.goals().violations(record.values)
    mark = f"breaks {', '.join(broken)}" if broken else "fits"
    rung = "" if record.is_final else f" at {record.fidelity:.0%} of the training"
    shown = (quality_of(record.values), "latency_ratio", "size_ratio")
    names = [name for name in shown if name in record.values]
    return f"{mark}{rung}: " + " ".join(f"{name} {show(record.values[name])}" for name in names)


def _preferred(budget: Budget) -> str:
    """``; prefer latency x 2, size x 1``, or nothing."""
    weights = ", ".join(f"{name} x {weight:g}" for name, weight in budget.prefer.items())
    return f"; prefer {weights}" if weights else ""


#: The parameters of a step that matter, where it has them.
TELLING = ("method", "patch", "keep", "drop", "ratio", "model", "width", "depth", "passes", "epochs", "bits", "hint")


def short_recipe(plain: Mapping[str, Any]) -> str:
    """A recipe with the parameters that matter, on one line."""
    return " + ".join([*map(short_step, plain["steps"]), str(plain["runtime"])])


def short_step(step: Mapping[str, Any]) -> str:
    """A step with the parameters that matter, such as ``prune_mlp(0.5)``."""
    telling = [str(step[key]) for key in TELLING if step.get(key) is not None]
    return step["technique"] + (f"({', '.join(telling)})" if telling else "")


def show(value: Measurement, digits: int = 4) -> str:
    """A figure with its interval, if any."""
    text = f"{value.value:.{digits}g}"
    return text if value.low is None or value.high is None else f"{text} [{value.low:.3g}-{value.high:.3g}]"


def print_answer(out: Console, answer: Answer, budget: Budget, folder: Path, report: Path) -> None:
    """The final table and where everything lies."""
    if answer.chosen is None:
        out.print("no trial finished", highlight=False)
        _print_notes(out, answer.notes)
        return
    out.print(answer_table(answer, budget))
    _print_verdict(out, answer)
    _print_choice(out, answer, budget)
    _print_notes(out, answer.notes)
    name = "recipe.yaml" if answer.feasible else "nearest-miss.yaml"
    out.print(f"recipe   {folder / name}", highlight=False)
    out.print(f"model    {folder / 'artifacts' / 'recipe'}", highlight=False)
    out.print(f"report   {report}", highlight=False)
    cost = answer.cost
    if cost:
        wall, cores = cost["wall_seconds"] / 60, cost["core_hours"]
        out.print(f"cost     {wall:.1f} min, {cores:.2f} core-hours, {cost['trials']:.0f} trials", highlight=False)
        if cost.get("prepare_seconds"):
            out.print(f"elastic  {cost['prepare_seconds'] / 60:.1f} min of it prepared the base", highlight=False)
        saved = cost.get("gates_saved_seconds", 0.0) / 60
        if saved:
            gated = f"{cost['gated']:.0f} trials were never trained or judged"
            out.print(f"gates    {gated}: about {saved:.1f} min saved", highlight=False)


def alternatives_table(answer: Answer, budget: Budget) -> Table:
    """The answer and what else could have been chosen, by the search's figures; readable at 80 columns."""
    title = f"what could have been chosen, on {budget.data.validation_name}"
    table = Table(title=title, title_justify="left", box=SIMPLE)
    trials = [one.trial for one in answer.alternatives]
    quality = quality_of(trials[0].values)
    asked = dict.fromkeys([quality, "latency", "size", *budget.optimize])
    names = [name for name in asked if any(name in trial.values for trial in trials)]
    table.add_column("", max_width=14)
    for name in names:
        unit = get_objective(name).unit
        table.add_column(f"{name}\n{'%' if unit == 'share' else unit}", justify="right", no_wrap=True)
    table.add_column("recipe", overflow="fold", min_width=16)
    for one in answer.alternatives:
        cells = [_plain_figure(name, one.trial) for name in names]
        style = "bold" if one.names[0] == ANSWER else ""
        table.add_row(", ".join(one.names), *cells, short_recipe(one.trial.recipe), style=style)
    return table


def _plain_figure(name: str, trial: Trial) -> str:
    if name not in trial.values:
        return "-"
    value = trial.values[name].value
    return f"{100 * value:.2f}" if get_objective(name).unit == "share" else f"{value:.4g}"


def answer_table(answer: Answer, budget: Budget) -> Table:
    """Base, best single technique, the recipe, and the recipe without each technique; all on the same images."""
    rows = answer.rows
    title = f"measured in one session on {answer.images or budget.data.final_name}; {budget.where}"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for heading in headings(budget, rows):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("recipe", overflow="fold")
    for row in rows:
        table.add_row(
            row.role,
            *row_cells(row.values, budget),
            short_recipe(row.recipe),
            style="bold" if row.role == "recipe" else "",
        )
    return table


def headings(budget: Budget, rows: Sequence[Row]) -> list[str]:
    """Column headings for :func:`row_cells`: usual figures, the speed on each further target, what else was asked."""
    values = rows[0].values if rows else {}
    further = [f"{what} {target.label}" for target in budget.targets[1:] for what in ("p50 ms", "speed-up")]
    others = [(name, get_objective(name).unit) for name in _asked(budget, values)]
    asked = [name if name.endswith(unit) else f"{name}, {unit}" for name, unit in others]
    return [f"{word_of(values)} %", *HEADINGS, *further, *asked]


def _asked(budget: Budget, values: Mapping[str, Measurement]) -> list[str]:
    """Objectives that the budget names and no usual column shows, a user's own among them."""
    quality, places = quality_of(values), [target.label for target in budget.targets]
    shown = {quality, f"{quality}_drop", "size", "size_ratio", "params", "macs", "eer", "latency", "latency_ratio"}
    shown |= {f"{name}@{place}" for name in ("latency", "latency_ratio") for place in places}
    return [name for name in dict.fromkeys([*budget.optimize, *budget.limits]) if name not in shown]


def row_cells(values: Mapping[str, Measurement], budget: Budget) -> list[str]:
    """The figures of one row as text: those with an interval with it."""
    quality = quality_of(values)
    drop = values[f"{quality}_drop"]
    speeds = [_speed(values, f"@{target.label}") for target in budget.targets[1:]]
    return [
        f"{100 * values[quality].value:.2f}",
        _interval(100 * drop.value, drop, lambda value: 100 * value, "{:+.2f}"),
        *_speed(values),
        f"{values['size'].value:.3f}",
        f"{1 / values['size_ratio'].value:.2f}x",
        f"{values['params'].value:.3f}",
        f"{values['macs'].value:.1f}",
        f"{values['eer'].value:.3f}" if "eer" in values else "-",
        *(cell for pair in speeds for cell in pair),
        *(show(values[name]) if name in values else "-" for name in _asked(budget, values)),
    ]


def _speed(values: Mapping[str, Measurement], place: str = "") -> tuple[str, str]:
    ratio = values[f"latency_ratio{place}"]
    return (
        f"{values[f'latency{place}'].value:.3f}",
        _interval(1 / ratio.value, ratio, lambda value: 1 / value, "{:.2f}"),
    )


def _interval(shown: float, value: Measurement, convert: Callable[[float], float], pattern: str) -> str:
    text = pattern.format(shown)
    if value.low is None or value.high is None:
        return text
    low, high = sorted((convert(value.low), convert(value.high)))
    return f"{text} [{pattern.format(low)}, {pattern.format(high)}]"


#: Colours of a verdict, of one limit and of all together.
COLOURS = {
    "holds": "green",
    "not shown": "yellow",
    "not shown on the test split": "yellow",
    "broken": "red",
    "infeasible": "red",
}


def _print_verdict(out: Console, answer: Answer) -> None:
    said: str = answer.status
    if not answer.feasible:
        said = f"infeasible: no recipe holds every limit. The nearest miss violates {'; '.join(answer.violated)}"
    out.print(f"status   {said}", style=COLOURS[answer.status], highlight=False, markup=False)
    print_limits(out, answer.limits)


def _print_choice(out: Console, answer: Answer, budget: Budget) -> None:
    """Why this one, and the others where there are any."""
    if answer.reason:
        out.print(f"why      {answer.reason}", highlight=False, markup=False)
    if len(answer.alternatives) > 1:
        out.print(alternatives_table(answer, budget))


def print_limits(out: Console, limits: Sequence[JudgedLimit]) -> None:
    """A line a limit: its figure, on which images, the bound, and whether it was shown to hold."""
    for limit in limits:
        out.print(f"limit    {limit}", style=COLOURS[limit.verdict], highlight=False, markup=False)


def _print_notes(out: Console, notes: Sequence[str]) -> None:
    for note in notes:
        out.print(f"note: {note}", highlight=False, markup=False)


def print_archive_answer(out: Console, answer: Answer, budget: Budget) -> None:
    """An answer from the archive: figures on what the search judged on."""
    if answer.chosen is None:
        out.print("infeasible: the archive holds no finished trial that could be measured", highlight=False)
        _print_notes(out, answer.notes)
        return
    title = f"from the archive, on {budget.data.validation_name}; {budget.where}"
    table = Table(title=title, title_justify="left")
    quality = quality_of(answer.chosen.values)
    usual = (quality, f"{quality}_drop", "latency", "latency_ratio", "size")
    names = list(dict.fromkeys([*usual, *budget.limits, *budget.optimize]))
    for heading in ("", *names, "recipe"):
        table.add_column(heading)
    for role, trial in (
        ("recipe" if answer.feasible else "nearest miss", answer.chosen),
        ("best single", answer.single),
    ):
        if trial is not None:
            figures = [show(trial.values[name]) if name in trial.values else "-" for name in names]
            table.add_row(role, *figures, short_recipe(trial.recipe))
    out.print(table)
    _print_verdict(out, answer)
    _print_choice(out, answer, budget)
    _print_notes(out, answer.notes)


def print_applied(out: Console, result: Mapping[str, Any]) -> None:
    """What ``sousvit apply`` wrote, and how it compares with what the recipe recorded."""
    _print_pairs(out, {"artifact": result["artifact"], "recipe": short_recipe(result["recipe"]), **result["figures"]})
    for one in result["compared"]:
        out.print(str(Compared(**one)), highlight=False, markup=False)
    _print_notes(out, result["notes"])


def print_measured(out: Console, result: Mapping[str, Any]) -> None:
    """What ``sousvit measure`` measured."""
    _print_pairs(out, result["figures"])


def print_verification(out: Console, found: Verification) -> None:
    """What ``sousvit verify`` found."""
    table = Table(title=f"{found.subject} on {found.target}", title_justify="left")
    for heading in ("limit", "figure", "images", "verdict"):
        table.add_column(heading, overflow="fold")
    for limit in found.limits:
        value = None if limit.value is None else Measurement(limit.value, limit.low, limit.high)
        figure = "was not measured" if value is None else show(value)
        table.add_row(f"{limit.name} {limit.bound}", figure, limit.images, limit.verdict, style=COLOURS[limit.verdict])
    out.print(table)
    if found.parity is not None:
        out.print(f"parity   relative error of the logits {found.parity:.2g}", highlight=False)
    _print_notes(out, found.notes)
    out.print(f"status   {found.status}", style=COLOURS[found.status], highlight=False, markup=False)


def print_facts(out: Console, target: str, facts: Mapping[str, Any]) -> None:
    """What a device said it is."""
    runtimes = ", ".join(f"{name} {version}" for name, version in facts["runtimes"].items())
    pairs = {
        "target": target,
        "cpu": f"{facts['cpu']}, {facts['cores']} cores",
        "instructions": ", ".join(facts["flags"]) or "none that matter",
        "memory": f"{facts['memory_gb']} GB",
        "system": f"{facts['os']}, Python {facts['python']}",
        "runtimes": runtimes or "none",
        "energy": "can be measured" if facts["energy"] else "no counter",
    }
    _print_pairs(out, pairs)


def print_checked(out: Console, checked: Checked, budget: Budget) -> None:
    """What a search would begin with."""
    base = checked.base
    shown = (quality_of(base), "latency", "size", "macs", "params", "memory")
    figures = ", ".join(f"{name} {with_unit(name, base[name])}" for name in shown if name in base)
    how = dict(checked.preprocess)
    parts = [f"{count:,} {part}" for part, count in checked.images.items()]
    training = "nothing in the space trains"
    if checked.epoch_seconds is not None:
        training = f"and {checked.epoch_seconds:.0f} s for each epoch of the base's size"
    pairs = {
        "base": f"{figures} (ONNX Runtime fp32, {budget.where})",
        "images": ", ".join(parts),
        "classes": f"{len(checked.classes)}: {', '.join(checked.classes)}" if checked.classes else "without names",
        "preprocess": ", ".join(f"{name} {_plain(value)}" for name, value in how.items() if value is not None),
        "limits": ", ".join(map(str, budget.hard_limits)) or "none",
        "space": f"{checked.combinations:,} combinations of {', '.join(checked.techniques)}",
        "a trial": f"{checked.trial_seconds:.0f} s to export, time and judge; {training}",
        "memory": f"{checked.memory_mb:,.0f} MB so far",
        "sheet": str(checked.sheet),
    }
    for name, value in pairs.items():
        out.print(f"{name:<11}{value}", highlight=False, markup=False)
    for reason, names in by_reason(checked.left_out).items():
        out.print(f"left out   {', '.join(names)} ({reason})", highlight=False, markup=False)
    _print_notes(out, checked.notes)


def _plain(value: Any) -> str:
    """A setting in few characters."""
    if isinstance(value, list | tuple):
        return " ".join(f"{entry:.4g}" if isinstance(entry, float) else str(entry) for entry in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def with_unit(name: str, value: Measurement) -> str:
    """A figure, its interval and its unit."""
    unit = get_objective(name).unit
    return show(value) if unit in ("share", "ratio") else f"{show(value)} {unit}"


def by_reason(left_out: Mapping[str, str]) -> dict[str, list[str]]:
    """Names of techniques by why they are left out."""
    found: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        found.setdefault(reason, []).append(name)
    return found


def _print_pairs(out: Console, pairs: Mapping[str, Any]) -> None:
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        shown = (
            value
            if isinstance(value, str)
            else show(Measurement(*value))
            if isinstance(value, list)
            else f"{value:.5g}"
        )
        out.print(f"{name:<{width}}  {shown}", highlight=False, markup=False)


def print_listing(out: Console, what: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Rows as a table."""
    if not rows:
        out.print(f"no {what}", highlight=False)
        return
    table = Table()
    for heading in rows[0]:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    out.print(table)


class Spinner:
    """A bar on stderr for one-off commands; silent without a terminal, but for :meth:`say`."""

    def __init__(self, bar: Progress, task: Any, quiet: bool) -> None:
        self._bar, self._task, self._quiet = bar, task, quiet

    def __call__(self, what: str, done: int, total: int) -> None:
        self._bar.update(self._task, description=what, completed=done, total=total or None)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if not self._quiet:
            self._bar.console.print(text, highlight=False, markup=False)


@contextmanager
def spinner(what: str, quiet: bool = False) -> Iterator[Spinner]:
    """Shows that something goes on."""
    out = console(stderr=True)
    with _bar(out, disable=quiet or not out.is_terminal) as bar:
        yield Spinner(bar, bar.add_task(what, total=None), quiet)


def training_progress(spinner_: Spinner) -> Callable[[int, int, int, float], None]:
    """Bar a step, line an epoch."""

    def progress(epoch: int, step: int, steps: int, loss: float) -> None:
        spinner_(f"epoch {epoch + 1} loss {loss:.3f}", step + 1, steps)
        if step + 1 == steps:
            spinner_.say(f"epoch {epoch + 1}: loss {loss:.3f}")

    return progress


def _bar(out: Console, disable: bool) -> Progress:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=out, transient=True, disable=disable)
