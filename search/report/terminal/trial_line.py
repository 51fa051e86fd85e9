"""A trial in a line."""

from __future__ import annotations

from sousvit.search.budget import Budget
from sousvit.search.callbacks import Counts
from sousvit.search.report.terminal.words import short_recipe, show
from sousvit.search.trial import Trial, quality_of


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
