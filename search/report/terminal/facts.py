"""What commands print that do not search: pairs and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from sousvit.objectives.objective import Measurement
from sousvit.search.budget import Budget
from sousvit.search.judging.comparison import Compared
from sousvit.search.report.terminal.answer import COLOURS, print_notes
from sousvit.search.report.terminal.words import by_reason, plain, short_recipe, show, with_unit
from sousvit.search.trial import quality_of

if TYPE_CHECKING:
    from sousvit.search.check import Checked
    from sousvit.search.judging.verification import Verification


def print_applied(out: Console, result: Mapping[str, Any]) -> None:
    """What ``sousvit apply`` wrote, and how it compares with what the recipe recorded."""
    _print_pairs(out, {"artifact": result["artifact"], "recipe": short_recipe(result["recipe"]), **result["figures"]})
    for one in result["compared"]:
        out.print(str(Compared(**one)), highlight=False, markup=False)
    print_notes(out, result["notes"])


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
    print_notes(out, found.notes)
    out.print(f"status   {found.status}", style=COLOURS[found.status], highlight=False, markup=False)


def print_facts(out: Console, target: str, facts: Mapping[str, Any]) -> None:
    """What a device said it is."""
    runtimes = ", ".join(f"{name} {version}" for name, version in facts["runtimes"].items())
    pairs = {
        "target": target,
        "cpu": f"{facts['cpu']}, {facts['cores']} cores",
        "instructions": ", ".join(facts["flags"]) or "none that matter",
        "memory": f"{facts['memory_gb']} GB" if facts["memory_gb"] else "not told",
        "system": f"{facts['os']}, Python {facts['python']}",
        **_of_browser(facts.get("browser")),
        "runtimes": runtimes or "none",
        "energy": "can be measured" if facts["energy"] else "no counter",
    }
    _print_pairs(out, pairs)


def _of_browser(browser: Mapping[str, Any] | None) -> dict[str, str]:
    """What decides how a page measures, in place of what it has not."""
    if browser is None:
        return {}
    alone = "isolated: threads" if browser["isolated"] else "not isolated: one thread"
    return {"system": "a browser", "page": f"{alone}, clock {browser['tick_us']} us"}


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
        "preprocess": ", ".join(f"{name} {plain(value)}" for name, value in how.items() if value is not None),
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
    print_notes(out, checked.notes)


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
