"""Runs that were made before: their trials, and answers to other budgets without a new search."""

from __future__ import annotations

import shutil
import sys
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
from sousvit.search.budget import Budget
from sousvit.search.identity import changed_inputs, told_of_changes, told_of_damage
from sousvit.search.report.listing import run_rows
from sousvit.search.results import Answer, choose_among, judged
from sousvit.search.stored.opened import answer_of
from sousvit.search.stored.opened import open_run as open_archive
from sousvit.search.stored.trust import require_known_factory
from sousvit.text.paths import at_home

if TYPE_CHECKING:
    import pandas as pd

    from sousvit.models.load import LoadedModel
    from sousvit.search.executors.executor import Progress
    from sousvit.search.report.page.compare import Comparison

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

    def __init__(self, folder: Path, budget: Budget, archive: Archive, allow_plugins: bool = False) -> None:
        self.folder, self.budget, self.archive = folder, budget, archive
        self._allow_plugins = allow_plugins

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
        """What the search returned, made again from its trials where the file is damaged; None while not finished."""
        answer = answer_of(self.budget, self.archive)
        return None if answer is None else self._result(answer)

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

    def trial(self, key: str) -> Result:
        """The result of one trial, as if it were the answer; its figures are those of the search.

        Args:
            key: as in ``trials``, or a beginning that only one trial has.

        Raises:
            UserError: no such trial, several, or one that was not judged in full.
        """
        found = [one for one in self.archive if key and one.key.startswith(key)]
        if len(found) != 1 or not found[0].is_final:
            begin = "no trial begins so" if not found else f"{len(found)} trials of the run begin so"
            received = f"{key}: {'it was not judged in full' if len(found) == 1 else begin}"
            rule = "a trial is named by the key of one that was judged in full, or by its beginning"
            raise UserError(rule, received, "see the column key of trials.parquet, or the report")
        goals = self.budget.goals(self.base)
        return self._result(judged(choose_among(found, goals), self.budget))

    def bundle_front(self, folder: str | Path, *, uint8: str | None = None) -> list[Path]:
        """A bundle of every member of the front, in a folder each that is called by its key; see `Result.bundle`.

        Raises:
            UserError: the front has no members, or one cannot be written.
        """
        keys = [trial.key for trial in self.archive.front(self.budget.goals(self.base))]
        if not keys:
            raise UserError("a front has members", f"none in {self.folder}", "name a --trial, or give the search more")
        return [self.trial(key).bundle(at_home(folder) / key, uint8=uint8) for key in keys]

    def report(self, path: str | Path | None = None, form: str | None = None, images: bool = True) -> Path:
        """Write the report, see :meth:`.Result.report`; returns the path."""
        return self._result(Answer(False, None, None)).report(path, form, images)

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

    @property
    def damaged(self) -> list[str]:
        """What is damaged of the run's files, such as ``events.jsonl: 1 line unreadable``; empty where all is whole.

        Everything here is of what is whole.
        """
        return list(self.archive.damaged)

    def _result(self, answer: Answer, budget: Budget | None = None) -> Result:
        if answer.chosen is not None:
            told = (*told_of_changes(self.changed), *told_of_damage(self.damaged))
            answer = replace(answer, notes=(*answer.notes, *told))
        return Result(budget or self.budget, self.folder, answer, self._load_base)

    def _load_base(self) -> LoadedModel:
        from sousvit.models.load import load

        require_known_factory(self.budget.model, self.folder, self._allow_plugins)
        return load(self.budget.model)


def open_run(folder: str | Path, *, allow_plugins: bool = False) -> Run:
    """A finished or interrupted run; what is damaged of it is said on stderr, and stands in ``damaged``.

    Args:
        folder: of the run.
        allow_plugins: run the code that the run names (plug-ins, and the factory of its model), even if you never
            named it on this machine, or changed it since. A run from somewhere else can name any code.

    Raises:
        UserError: no run there, no trial of it has finished, or it names code that you did not.
    """
    folder = folder_of(folder)
    run = Run(folder, *open_archive(folder, allow_plugins), allow_plugins)
    for damage in run.damaged:
        print(f"damaged: {damage}", file=sys.stderr)
    return run


def compare_runs(runs: Sequence[str | Path], *, allow_plugins: bool = False) -> Comparison:
    """Runs beside each other: ``warnings`` says what is not alike, ``write`` writes a page with their fronts.

    Args:
        runs: folders of two to eight runs.
        allow_plugins: see :func:`open_run`.

    Raises:
        UserError: fewer, more, one twice, or one of them cannot be opened.
    """
    from sousvit.search.report.page.compare import compare

    folders = [folder_of(run) for run in runs]
    opened = [open_run(folder, allow_plugins=allow_plugins) for folder in folders]
    return compare(folders, [(run.budget, run.archive) for run in opened])


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
    path = at_home(run)
    return run_folder(path.parent, path.name)
