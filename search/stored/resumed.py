"""A run to be gone on with: its budget and the options that it was begun with, with more time or trials."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path

from sousvit.checked import validated
from sousvit.errors import UserError
from sousvit.search.archive import Archive
from sousvit.search.budget import Budget, SearchLimits
from sousvit.search.stored.answer_file import DamagedAnswerError, read_answer
from sousvit.search.stored.opened import read_run_budget
from sousvit.search.stored.trust import require_known_factory

#: Events that say how a run was begun, and how far it got.
_GLANCED = ("run", "options", "base", "session")


@dataclass(frozen=True)
class Resumed:
    """What :func:`sousvit.resume` does.

    Attributes:
        parts_seconds: for how long a finished run goes on with the rows that it lacks; None for one that searches on.
    """

    folder: Path
    budget: Budget
    executor: str
    earlier: Path | None
    parts_seconds: float | None


def resumed(folder: Path, time: float | str | None, trials: int | None, allow_plugins: bool = False) -> Resumed:
    """What resuming a run means.

    Args:
        time: what it may take from now on.
        trials: in all.

    Raises:
        UserError: no run there, a survey, a wrong number, or it names code that the user did not.
    """
    budget, _ = read_run_budget(folder, allow_plugins)
    require_known_factory(budget.model, folder, allow_plugins)
    # What it has found is read when it goes on; what its trials took counts where it may take so much more.
    archive = Archive(folder, only=(*_GLANCED, "trial") if time is not None else _GLANCED)
    if str(archive.header.get("identity", "")).startswith("study "):
        raise UserError("a search can be resumed", f"{folder.name}, a survey", "run sousvit survey again, same --run")
    further = {name: value for name, value in (("trials", trials), ("time", time)) if value is not None}
    limits = validated(SearchLimits, {**budget.search.model_dump(mode="json"), **further}, "resume")
    seconds = limits.time if time is not None else None
    completes = trials is None and _lacks_rows(folder)
    if completes:
        limits = budget.search
    elif seconds is not None:  # on top of what the run took
        limits = limits.model_copy(update={"time": archive.spent_seconds + seconds})
    budget = budget.model_copy(update={"search": limits})
    earlier = archive.options.get("earlier")
    return Resumed(
        folder,
        budget,
        archive.options.get("executor") or ("local" if budget.ray is None else "ray"),
        Path(earlier) if earlier is not None and archive.base is None else None,
        (math.inf if seconds is None else seconds) if completes else None,
    )


def _lacks_rows(folder: Path) -> bool:
    with contextlib.suppress(DamagedAnswerError):
        stored = read_answer(folder)
        return stored is not None and bool(stored.answer.skipped)
    return False
