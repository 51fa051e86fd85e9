"""Searches and surveys from Python. The command line calls the same, and prints what they return."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from sousvit.checked import validated
from sousvit.errors import UnknownNameError, UserError
from sousvit.inputs import INPUTS, data_input, model_input, preprocess_input, target_input
from sousvit.objectives.targets.target import Target
from sousvit.plugins import objectives_input, space_input, techniques_input
from sousvit.result import Result, write_own_bundle
from sousvit.runs import Run, folder_of, starting
from sousvit.search.budget import Budget, SearchLimits, make_budget, read_budget
from sousvit.search.callbacks import Callback, Callbacks
from sousvit.search.executors.open import EXECUTORS, INLINE, open_executor
from sousvit.search.executors.spawn import end_if_rerun
from sousvit.search.trackers.tracker import open_trackers
from sousvit.specs import ModelSpec

if TYPE_CHECKING:
    from torch import nn

    from sousvit.models.load import LoadedModel
    from sousvit.models.preprocess import Preprocess
    from sousvit.objectives.objective import Objective
    from sousvit.spaces.technique import Technique


def compress(
    model: nn.Module | str | Path | Mapping[str, Any] | ModelSpec,
    *,
    train: Any = None,
    validation: Any = None,
    test: Any = None,
    preprocess: str | Preprocess | Mapping[str, Any] | Callable[[Any], Any] = "auto",
    expected_accuracy: float | None = None,
    target: str | Path | Target | Mapping[str, Any] | Sequence[Any] = "local-1-thread",
    limits: Mapping[str, float | str] | None = None,
    optimize: str | Sequence[str] = ("latency", "size"),
    prefer: str | Sequence[str] | Mapping[str, float] | None = None,
    objectives: Sequence[str | type[Objective] | Objective] = (),
    techniques: Sequence[str | type[Technique] | Technique] = (),
    space: str | Path | Mapping[str, Any] | Sequence[str] = "default",
    callbacks: Sequence[Callback] = (),
    trials: int = 100,
    time: float | str | None = None,
    seed: int = 0,
    run: str | Path | None = None,
    executor: str = "local",
    factory: str | None = None,
    **options: Any,
) -> Result:
    """Search the recipe that compresses ``model`` best for a target, within hard limits.

    For instance::

        result = sousvit.compress("base.safetensors", train="data/train", test="data/test",
                                  limits={"accuracy_drop": 0.01}, optimize=["latency"], trials=50)
        print(result)

    Args:
        model: timm's name of a model (with its own weights), a ``.safetensors`` checkpoint, ``sousvit.Model(...)``, or
            an ``nn.Module``, whose ``pretrained_cfg`` says how images reach it (``mean``, ``std``; of a module that
            timm did not make, ``input_size`` too). A module that timm can make again by its name and arguments
            travels to worker processes with its weights; any other runs with ``executor="inline"`` or a ``factory``.
        train: a folder with a folder a class, a parquet or IDX file, a torch ``Dataset`` of (image, label), a
            description as in a budget's ``data:`` (which then holds all parts), or None: images are synthesised.
        validation: likewise, or how much of ``train`` is held out, as a share or a count; a tenth by default.
        test: likewise; the answer is judged on it, and nothing else is.
        preprocess: how images reach the model: ``auto`` as its checkpoint says, ``sousvit.Preprocess(...)`` for what it
            does not say, or a transform of your own, from a PIL image to what the model was evaluated with; it is
            applied once to every image, which then lies in the run's folder.
        expected_accuracy: what the base is known to reach (mAP of a detector): where it measures another figure, the
            search stops before its first trial.
        target: a shipped profile, a YAML file, ``sousvit.Target(...)``, or several.
        limits: by objective, or its ``_drop`` or ``_ratio`` form relative to the base: ``{"size": "2 MB"}``.
        optimize: objectives, whose front is looked for.
        prefer: which of them the choice of the answer counts most: a name, a list, or weights such as
            ``{"latency": 2, "size": 1}``; by default all count alike.
        objectives: of your own: classes derived from ``sousvit.Objective``.
        techniques: of your own, to be added to the space.
        space: what may be combined: a preset, a YAML file, a mapping, or names of techniques.
        callbacks: follow the search; see ``sousvit.Callback``.
        trials: at most so many.
        time: at most so long, in seconds or as text such as ``"1h30m"``.
        seed: of everything random.
        run: the run's folder; the same one again resumes. By default a new one under ``runs/``.
        executor: ``local`` (a worker process), ``ray`` (a cluster), or ``inline`` (this process: for notebooks, and
            scripts without ``if __name__ == "__main__"``).
        factory: ``package.module:function`` that makes a module like ``model`` in worker processes.
        options: further keys of a budget's ``search:`` section, such as ``explore_fidelity=1.0``.

    Raises:
        UserError: what is wrong, in one line; nothing that finished is lost, and the same call resumes.
    """
    end_if_rerun()
    _require_executor(executor)
    _require_options(options)
    folder = folder_of(run, _name_of(model))
    with starting(folder):
        spec, base = model_input(model, folder / INPUTS, factory)
        if base is not None and executor != INLINE:
            raise UserError(
                "worker processes make the model again, and timm cannot make this one",
                f"{spec.name} for executor {executor!r}",
                "use executor='inline', or give factory='package.module:function'",
            )
        data = data_input(train, validation, test, folder / INPUTS)
        spec, data, base = preprocess_input(preprocess, spec, data, base, folder / INPUTS)
        if expected_accuracy is not None:
            known = {**spec.model_dump(), "expected_accuracy": expected_accuracy}
            spec = validated(ModelSpec, known, "compress")
        limits, optimized = dict(limits or {}), [optimize] if isinstance(optimize, str) else list(optimize)
        names, references = techniques_input(techniques, executor)
        values = {
            "model": spec,
            "data": data,
            "targets": target_input(target),
            "limits": limits,
            "optimize": optimized,
            "prefer": prefer or {},
            "space": space_input(space, names),
            "search": {"trials": trials, "time": time, "seed": seed, **options},
            "plugins": {
                "objectives": objectives_input(objectives, [*optimized, *limits], executor),
                "techniques": references,
            },
        }
        return _optimize(make_budget(values, Path(), "compress"), folder, executor, callbacks, base=base)


class Search:
    """A search for a written budget: :meth:`optimize` runs it, or goes on where it ended.

    Args:
        budget: a budget, its YAML file, or its values.
        run: the run's folder; by default a new one under ``runs/``.
        executor: ``local``, ``ray`` or ``inline``; by default ``ray`` where the budget names a cluster, else ``local``.
        callbacks: follow the search.
        earlier: the folder of a run whose results are taken over.
        allow_plugins: load the plug-ins that the earlier run names, even if you never named them on this machine.
        begun: when the budget's time began, by ``time.monotonic()``; by default when :meth:`optimize` is called.

    Raises:
        UserError: a wrong budget, or no such executor.
    """

    def __init__(
        self,
        budget: Budget | str | Path | Mapping[str, Any],
        *,
        run: str | Path | None = None,
        executor: str | None = None,
        callbacks: Sequence[Callback] = (),
        earlier: str | Path | None = None,
        allow_plugins: bool = False,
        begun: float | None = None,
    ) -> None:
        end_if_rerun()
        self.budget = read_budget(budget)
        self.executor = executor or ("local" if self.budget.ray is None else "ray")
        _require_executor(self.executor)
        self.folder = folder_of(run, _name_of(budget))
        self._callbacks = tuple(callbacks)
        self._earlier = None if earlier is None else folder_of(earlier)
        self._allow_plugins, self._begun = allow_plugins, begun

    def optimize(self) -> Result:
        """Search until the budget's trials or time are spent, then judge the answer.

        Raises:
            UserError: bad input, a full disk, a callback that failed; nothing that finished is lost.
            KeyboardInterrupt: passed on after the state is written; the same call resumes.
        """
        with starting(self.folder):
            return _optimize(
                self.budget,
                self.folder,
                self.executor,
                self._callbacks,
                self._earlier,
                allow_plugins=self._allow_plugins,
                begun=self._begun,
            )


def _optimize(
    budget: Budget,
    folder: Path,
    executor: str,
    callbacks: Iterable[Callback],
    earlier: Path | None = None,
    base: LoadedModel | None = None,
    allow_plugins: bool = False,
    begun: float | None = None,
    parts_seconds: float | None = None,
) -> Result:
    begun = monotonic() if begun is None else begun
    from sousvit.search.archive import Archive
    from sousvit.search.budget import require_sound
    from sousvit.search.report.page.write import write_report
    from sousvit.search.run import search
    from sousvit.search.stored.opened import hold_archive
    from sousvit.spaces.technique import TECHNIQUES

    own = tuple(callbacks)
    limits = ", ".join(map(str, budget.hard_limits)) or "none"
    settings = {"model": budget.model.name or "", "target": budget.where, "limits": limits, "run": folder.name}
    trackers = open_trackers(budget.search.trackers, folder, settings, lambda text: told.on_message(text))
    told = Callbacks([*own, *trackers])
    try:
        require_sound(budget)
        archive = Archive(folder, writable=True, techniques=TECHNIQUES)
        answer = search(
            budget,
            folder,
            lambda b, f: open_executor(executor, b, f, told.on_progress, base),
            told,
            earlier=earlier,
            allow_plugins=allow_plugins,
            begun=begun,
            parts_seconds=parts_seconds,
            options={"executor": executor, "earlier": None if earlier is None else str(earlier.resolve())},
            archive=archive,
        )
        hold_archive(archive)  # so that the report need not read a long log again
        if answer.chosen is not None:  # nothing to report where the time was over before a trial had finished
            write_report(folder)
        result = Result(budget, folder, answer, lambda: base or _load(budget))
        write_own_bundle(result)
        told.on_end(result)
    finally:
        for tracker in trackers:
            tracker.close()
    return result


def resume(
    run: str | Path,
    *,
    time: float | str | None = None,
    trials: int | None = None,
    callbacks: Sequence[Callback] = (),
    allow_plugins: bool = False,
    begun: float | None = None,
) -> Result:
    """Go on with a run, as it was begun: with its search where that was interrupted, and with its answer.

    A finished run goes on with the rows of its final table for which no time was left; with more ``trials``, or with
    ``time`` where no row is missing, it searches on.

    Args:
        run: its folder.
        time: what this call may take, in seconds or as text such as ``"1h30m"``; by default what the run has left of
            its own, and as long as it takes for rows that a finished run lacks.
        trials: of the run in all, instead of its own.
        callbacks: follow the search.
        allow_plugins: run the code that the run names, even if you never named it on this machine.
        begun: when ``time`` began, by ``time.monotonic()``; by default now.

    Raises:
        UserError: no run there, or it names code that you did not; nothing that finished is lost.
    """
    from sousvit.search.stored.resumed import resumed

    begun = monotonic() if begun is None else begun
    end_if_rerun()
    found = resumed(folder_of(run), time, trials, allow_plugins)
    with starting(found.folder):
        return _optimize(
            found.budget,
            found.folder,
            found.executor,
            callbacks,
            found.earlier,
            allow_plugins=allow_plugins,
            begun=begun,
            parts_seconds=found.parts_seconds,
        )


def survey(
    budget: Budget | str | Path | Mapping[str, Any],
    *,
    run: str | Path | None = None,
    executor: str = "local",
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Every technique of the budget's space alone, and named combinations, measured in one run; no search.

    The folder gets ``study.md`` (the table), ``study.html`` (a plot) and ``study.csv``; in the trials, ``origin`` names
    the technique.

    Args:
        budget: a budget, its YAML file, or its values; its limits reject nothing.
        run: the run's folder; the same one again resumes. By default a new one under ``runs/``.
        executor: ``local`` or ``inline``.
        callbacks: follow the survey.

    Raises:
        UserError: what is wrong, in one line; nothing that finished is lost.
    """
    from sousvit.search.report.survey import write_survey
    from sousvit.search.survey import run_survey

    end_if_rerun()
    _require_executor(executor)
    asked, folder = read_budget(budget), folder_of(run, f"{_name_of(budget)}-survey")
    told = Callbacks(callbacks)
    with starting(folder):
        archive = run_survey(asked, folder, lambda b, f: open_executor(executor, b, f, told.on_progress), told)
    write_survey(archive, folder)
    found = Run(folder, asked, archive)
    told.on_end(found)
    return found


def _name_of(given: Any) -> str:
    """What a new run is called by."""
    if isinstance(given, str | Path):
        return Path(given).stem
    if isinstance(given, Budget):
        return given.model.name or "model"
    return "search" if isinstance(given, Mapping) else type(given).__name__.lower()


def _require_executor(name: str) -> None:
    if name not in EXECUTORS:
        raise UnknownNameError("executor", name, EXECUTORS)


def _require_options(options: Mapping[str, Any]) -> None:
    """A misspelt argument is told as one, and not as a key of a section that the caller never wrote."""
    import inspect

    named = [name for name in inspect.signature(compress).parameters if name != "options"]
    for name in options:
        if name not in SearchLimits.model_fields:
            raise UnknownNameError("argument of compress", name, [*named, *SearchLimits.model_fields])


def _load(budget: Budget) -> LoadedModel:
    from sousvit.models.load import load

    return load(budget.model)
