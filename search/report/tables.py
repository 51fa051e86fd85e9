"""The run folder's tables for other tools: every trial as parquet, the feasible front as CSV."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sousvit.files import write_atomic
from sousvit.search.archive import Archive
from sousvit.search.goals import Goals
from sousvit.search.trial import Trial

if TYPE_CHECKING:
    import pandas as pd


def trial_frame(trials: Iterable[Trial], goals: Goals) -> pd.DataFrame:
    """One row a trial: identity, status, figures with their intervals, seconds."""
    import pandas as pd

    return pd.DataFrame([_row(trial, goals) for trial in trials])


def _row(trial: Trial, goals: Goals) -> dict[str, Any]:
    row: dict[str, Any] = {
        "key": trial.key,
        "recipe": json.dumps(trial.recipe, sort_keys=True),
        "techniques": " + ".join([*trial.techniques, str(trial.recipe["runtime"])]),
        "fidelity": trial.fidelity,
        "seed": trial.seed,
        "status": trial.status,
        "feasible": trial.is_final and goals.holds(trial.values),
        "origin": trial.origin,
        "message": trial.message,
        "seconds": sum(trial.seconds.values()),
    }
    for name, value in trial.values.items():
        row[name] = value.value
        if value.low is not None:
            row[f"{name}_low"], row[f"{name}_high"] = value.low, value.high
    return row


def write_tables(archive: Archive, goals: Goals, folder: Path) -> None:
    """Write ``trials.parquet`` and ``pareto.csv``."""
    if not len(archive):
        return
    buffer = io.BytesIO()
    trial_frame(archive, goals).to_parquet(buffer, index=False)
    write_atomic(folder / "trials.parquet", buffer.getvalue())
    front = trial_frame(archive.front(goals), goals)
    write_atomic(folder / "pareto.csv", front.to_csv(index=False))
