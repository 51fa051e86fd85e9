"""Runs that were made before: their trials, and answers to other budgets without a new search."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sousvit.errors import UserError
from sousvit.faults import chain_told
from sousvit.inputs import target_input
from sousvit.objectives.objective import Measurement
from sousvit.result import Result
from sousvit.search.archive import Archive, new_run_name, run_folder
from sousvit.search.archive import open_run as open_archive
from sousvit.search.budget import Budget
from sousvit.search.identity import changed_inputs, told_of_changes
from sousvit.search.report.listing import run_rows
from sousvit.search.results import Answer

if TYPE_CHECKING:
    import pandas as pd

    from sousvit.models.load import LoadedModel
    from sousvit.search.executors.executor import Progress

#: Where runs lie unless a caller says otherwise.
RUNS = Path("runs")


@contextmanager
def starting(folder: Path) -> Iterator[None]:
    """What a search in ``folder`` does: a start that fails leaves no folder behind, faults of the machine are one line.

    Raises:
        UserError: of what is inside, or the machine has a fault.
    """
    existed = folder.exists()
    try:
        with chain_told():
            yield
    except UserError:
        if not existed and folder.is_dir() and Archive(folder).base is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise


class Run:
    """A run's folder, read: what was tried, and answers to other budgets without a new search.

    Attributes:
        folder: of the run.
        budget: what it was asked.
        archive: the raw record of its trials.
    """

    def __init__(self, folder: Path, budget: Budget, archive: Archive) -> None:
        self.folder, self.budget, self.archive = folder, budget, archive

    @property
    def base(self) -> Mapping[str, Measurement]:
        """Figures of the uncompressed model in ONNX Runtime fp32."""
        return {} if self.archive.base is None else self.archive.base.values

    @property
    def machine(self) -> Mapping[str, Any]:
        """Facts of the machine that the base was measured on, as :func:`sousvit.machine_facts` gives them."""
        return {} if self.archive.base is None else self.archive.base.machine

    @property
    def trials(self) -> pd.DataFrame:
        """Every trial: recipe, status, figures with intervals, seconds."""
        return self._result(Answer(False, None, None)).trials

    @property
    def front(self) -> pd.DataFrame:
        """The trials that hold every limit and are not dominated in what is optimised."""
        return self._result(Answer(False, None, None)).front

    @property
    def result(self) -> Result | None:
        """What the search returned; None while it is not finished."""
        path = self.folder / "answer.json"
        return self._result(Answer.from_dict(json.loads(path.read_text()))) if path.is_file() else None

    def answer(
        self,
        budget: str | Path | Mapping[str, Any] | None = None,
        *,
        limits: Mapping[str, float | str] | None = None,
        optimize: str | Sequence[str] | None = None,
        prefer: str | Sequence[str] | Mapping[str, float] | None = None,
    ) -> Result:
        """The best recipe of the archive for other limits or preferences, at once.

        Nothing is measured: the figures are those of the search, so its status is never ``holds``.

        Args:
            budget: a YAML file or its values, instead of the keywords.
            limits: instead of the run's own.
            optimize: instead of the run's own.
            prefer: instead of the run's own: a name, a list or weights of what is optimised.

        Raises:
            UserError: it asks for another model, data, target or space, or for what the run did not measure.
        """
        from sousvit.search.reuse import answer_other_budget

        asked = self._asked(budget, limits=limits, optimize=optimize, prefer=prefer)
        answer, other = answer_other_budget(self.folder, asked)
        return self._result(answer, other)

    def retarget(
        self,
        budget: str | Path | Mapping[str, Any] | None = None,
        *,
        target: Any = None,
        limits: Mapping[str, float | str] | None = None,
        optimize: str | Sequence[str] | None = None,
        prefer: str | Sequence[str] | Mapping[str, float] | None = None,
        progress: Progress | None = None,
    ) -> Result:
        """The best recipe on other targets, by measuring there the artifacts that the run kept.

        Args:
            budget: a YAML file or its values, instead of the keywords.
            target: instead of the run's own; one or several.
            limits: instead of the run's own.
            optimize: instead of the run's own.
            prefer: instead of the run's own: a name, a list or weights of what is optimised.
            progress: told what is measured, how many are done, and of how many.

        Raises:
            UserError: another model, data or space, a device that cannot be used, or no artifacts.
        """
        from sousvit.search.reuse import retarget

        targets = None if target is None else target_input(target)
        asked = self._asked(budget, targets=targets, limits=limits, optimize=optimize, prefer=prefer)
        answer, other = retarget(self.folder, asked, progress or (lambda what, done, total: None))
        return self._result(answer, other)

    def report(self, path: str | Path | None = None) -> Path:
        """Write the self-contained HTML report, by default as ``report.html`` in the folder; returns the path."""
        return self._result(Answer(False, None, None)).report(path)

    def _asked(self, budget: str | Path | Mapping[str, Any] | None, **parts: Any) -> Path | Mapping[str, Any]:
        given = {name: part for name, part in parts.items() if part is not None}
        if budget is None:
            own = self.budget.model_dump(mode="json")
            names = ["limits", "optimize", "search"] + ["prefer"] * ("optimize" not in given)
            return {**{name: own[name] for name in names}, **given}
        if given:
            raise UserError("a budget holds all its parts", f"{', '.join(given)} beside it", "write it there")
        return budget if isinstance(budget, Mapping) else Path(budget)

    @cached_property
    def changed(self) -> list[str]:
        """What the run depends on and has other content since, such as ``data.test: PATH``."""
        return changed_inputs(self.budget, self.folder)

    def _result(self, answer: Answer, budget: Budget | None = None) -> Result:
        if answer.chosen is not None:
            answer = replace(answer, notes=(*answer.notes, *told_of_changes(self.changed)))
        return Result(budget or self.budget, self.folder, answer, lambda: _load_known(self.budget))


def open_run(folder: str | Path) -> Run:
    """A finished or interrupted run.

    Raises:
        UserError: no run there, or no trial of it has finished.
    """
    folder = folder_of(folder)
    return Run(folder, *open_archive(folder))


def list_runs(folder: str | Path = RUNS) -> list[dict[str, str]]:
    """The runs in a folder: name, state, trials, minutes, start."""
    return run_rows(Path(folder))


def folder_of(run: str | Path | None, name: str = "") -> Path:
    """A run's folder; a new one under ``runs/`` is called by ``name`` and the time.

    Raises:
        UserError: it could not be a run's.
    """
    if run is None:
        return run_folder(RUNS, new_run_name(name))
    path = Path(run).expanduser()
    return run_folder(path.parent, path.name)


def _load_known(budget: Budget) -> LoadedModel:
    """The base of a run that is only read: code that its budget names is not run."""
    if budget.model.factory is not None:
        rule = "a run's folder is data: code that it names is not run"
        raise UserError(rule, f"factory: {budget.model.factory}", "resume the run, or sousvit.build its recipe")
    from sousvit.models.load import load

    return load(budget.model)
