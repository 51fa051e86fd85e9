"""The result of a search: what was found, what it holds and on which images, and how to take it further."""

from __future__ import annotations

import html
import shutil
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from sousvit.errors import UnknownNameError, UserError
from sousvit.files import write_atomic
from sousvit.objectives.objective import Measurement
from sousvit.search.archive import Archive
from sousvit.search.budget import Budget
from sousvit.search.results import Answer, judged, recipe_yaml
from sousvit.search.trial import quality_of
from sousvit.search.verdict import Status
from sousvit.spaces.export.artifact import Artifact
from sousvit.spaces.recipe import Recipe
from sousvit.text.paths import at_home

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from torch import nn

    from sousvit.models.load import LoadedModel

#: In the run folder: the bundle of its answer.
BUNDLE = "bundle"


class Result:
    """What a budget got.

    Attributes:
        budget: what was asked.
        folder: of the run.
        answer: the raw record, as in the run's ``answer.json``.
    """

    def __init__(self, budget: Budget, folder: Path, answer: Answer, load_base: Callable[[], LoadedModel]) -> None:
        # Runs of earlier versions stored no verdicts.
        self.budget, self.folder, self.answer = budget, folder, answer if answer.limits else judged(answer, budget)
        self._load_base = load_base

    @property
    def status(self) -> Status:
        """Whether the recipe holds the limits.

        ``holds``: it did in the search, and on images that no trial was judged on, each at the budget's confidence.
        ``not shown on the test split``: it did in the search, but was not judged on such images, or did not hold there
        as surely. ``infeasible``: no recipe held every limit in the search; the nearest miss is returned.
        """
        return self.answer.status

    @property
    def limits(self) -> pd.DataFrame:
        """Every limit by its name: ``bound``, the figure with its 95% interval, on which images, whether it ``holds``.

        ``verdict`` is ``holds``, ``not shown`` (the figure lies within the bound, but not as surely as the budget asks,
        or it comes from the search itself) or ``broken``; ``images`` is empty where a figure hangs on none.
        """
        import pandas as pd

        columns = ["bound", "value", "low", "high", "holds", "verdict", "images"]
        rows = {limit.name: limit.to_dict() for limit in self.answer.limits}
        frame = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
        return frame.astype({"value": float, "low": float, "high": float, "holds": bool})

    @property
    def figures(self) -> Mapping[str, Measurement]:
        """What was measured of the recipe: on images that no trial saw where it was judged so, else in the search."""
        if self.answer.row is not None:
            return self.answer.row.values
        return {} if self.answer.chosen is None else self.answer.chosen.values

    def __getitem__(self, name: str) -> Measurement:
        """A figure of the recipe, such as ``result["latency_ratio"].high``.

        Raises:
            UnknownNameError: it was not measured.
        """
        if name not in self.figures:
            raise UnknownNameError("what was measured", name, self.figures)
        return self.figures[name]

    @property
    def recipe(self) -> Recipe | None:
        """The recipe, or the nearest miss; None where no trial finished."""
        return None if self.answer.chosen is None else Recipe.from_dict(self.answer.chosen.recipe)

    @property
    def reason(self) -> str:
        """Why this recipe was chosen, in one sentence; "" for a run of an earlier version."""
        return self.answer.reason

    @property
    def alternatives(self) -> pd.DataFrame:
        """The recipe beside the fastest, smallest and most accurate that hold every limit, and the knee of the front.

        Indexed by their names (``answer, fastest``); recipes that coincide have one row. Figures are the search's, in
        the objectives' units; ``recipe`` is in plain values, as ``sousvit.Recipe.from_dict`` takes it.
        """
        import pandas as pd

        found = self.answer.alternatives
        quality = quality_of(self.figures)
        usual = [quality, f"{quality}_drop", "latency", "latency_ratio", "size", "size_ratio"]
        names = list(dict.fromkeys([*usual, *self.budget.limits, *self.budget.optimize]))
        rows = {
            ", ".join(one.names): {**{name: one.trial.get(name) for name in names}, "recipe": one.trial.recipe}
            for one in found
        }
        return pd.DataFrame.from_dict(rows, orient="index", columns=[*names, "recipe"])

    @property
    def table(self) -> pd.DataFrame:
        """What was measured in one session, by role: base, best single technique, recipe, recipe without each part."""
        import pandas as pd

        from sousvit.search.report.terminal import short_recipe

        quality = quality_of(self.figures)
        usual = [quality, f"{quality}_drop", "latency", "latency_ratio", "size", "size_ratio"]
        names = list(dict.fromkeys([*usual, *self.budget.limits, *self.budget.optimize]))
        rows = {
            row.role: {
                **{name: row.values[name].value for name in names if name in row.values},
                "recipe": short_recipe(row.recipe),
            }
            for row in self.answer.rows
        }
        return pd.DataFrame.from_dict(rows, orient="index", columns=[*names, "recipe"])

    def markdown(self) -> str:
        """``table`` as Markdown, with intervals, and what leaving out each technique costs where that was measured."""
        from sousvit.search.report.page.gather import parts_of
        from sousvit.search.report.terminal import headings, row_cells, short_recipe

        rows = self.answer.rows
        names = headings(self.budget, rows)
        lines = ["| | " + " | ".join(names) + " | recipe |", "|---|" + "---:|" * len(names) + "---|"]
        lines += [
            f"| {row.role} | {' | '.join(row_cells(row.values, self.budget))} | {short_recipe(row.recipe)} |"
            for row in rows
        ]
        parts, _ = parts_of(self.answer)
        if parts:
            lines += ["", "| left out | latency becomes | file becomes | merit, points |", "|---|---:|---:|---:|"]
            lines += [
                f"| {part.technique} | {part.faster:.2f}x | {part.smaller:.2f}x | {-part.points:+.2f} |"
                for part in parts
            ]
        return "\n".join(lines)

    @property
    def trials(self) -> pd.DataFrame:
        """Every trial of the run: recipe, status, figures with intervals, seconds."""
        from sousvit.search.report.tables import trial_frame

        return trial_frame(self._archive, self.budget.goals())

    @property
    def front(self) -> pd.DataFrame:
        """The trials that hold every limit and are not dominated in what is optimised."""
        from sousvit.search.report.tables import trial_frame

        goals = self.budget.goals()
        return trial_frame(self._archive.front(goals), goals)

    @cached_property
    def model(self) -> nn.Module:
        """The recipe's module before quantization, to be fine-tuned further.

        It is read from what the run keeps; a training that made room there for others is done again.

        Raises:
            UserError: there is no recipe, or the base or its images are gone.
        """
        from sousvit.cache import TensorCache
        from sousvit.search.judging.build import Workshop
        from sousvit.spaces.weights import WEIGHTS, load_weights

        if self.answer.chosen is None or self.recipe is None:
            raise self._nothing("a model")
        kept = self._artifact_place() / WEIGHTS
        if kept.is_dir():
            return load_weights(kept)
        search = self.budget.search
        cache = TensorCache(self.folder / "cache", search.cache_gb * 1e9)
        workshop = Workshop(self._load_base(), self.budget.data, search.seed, cache)
        return workshop.model(self.recipe, self.answer.chosen.fidelity)

    @property
    def artifact(self) -> Path:
        """The folder of the exported model, as it was measured.

        Raises:
            UserError: there is no recipe, or the run did not keep it.
        """
        path = self._artifact_place()
        if not path.is_dir():
            action = "build it again: sousvit.build(result.recipe, ...)"
            raise UserError("a run keeps the artifacts of its front", f"none of this recipe in {self.folder}", action)
        return path

    def bundle(self, folder: str | Path, *, uint8: str | None = None) -> Path:
        """Write all that running the model elsewhere needs into a new or empty folder; returns the folder.

        The model's files, labels, preprocessing (as Hugging Face's libraries read it too), ``predict.py``, a model card
        and check sums. Card and recipe say where it is a nearest miss.

        Args:
            uint8: ``nchw`` or ``nhwc``: fold normalisation into an ONNX graph, which then takes pixels in that order.

        Raises:
            UserError: the folder holds something, there is no artifact, or its graph cannot be changed so.
        """
        from sousvit.search.bundle.bundle import write_bundle
        from sousvit.search.bundle.facts import facts_of

        facts = facts_of(self.answer, self.budget, self._archive, Artifact.open(self.artifact))
        return write_bundle(facts, at_home(folder), uint8 or "")

    @property
    def keeps_artifact(self) -> bool:
        """Whether the run still has the recipe's exported model."""
        return self.answer.chosen is not None and self._artifact_place().is_dir()

    def _artifact_place(self) -> Path:
        """Where the recipe's artifact lies, if the run kept it."""
        if self.answer.chosen is None:
            raise self._nothing("an artifact")
        name = self.answer.chosen.artifact if self.answer.row is None else self.answer.row.artifact
        return self.folder / "artifacts" / (name or "none")

    def write_recipe(self, path: str | Path) -> None:
        """Write the recipe with all that ``sousvit apply`` needs, and what was measured.

        Raises:
            UserError: there is none.
        """
        if self.answer.chosen is None:
            raise self._nothing("a recipe")
        write_atomic(Path(path), recipe_yaml(self.answer, self.budget, self._archive))

    def report(self, path: str | Path | None = None, form: str | None = None, images: bool = True) -> Path:
        """Write the run's report, by default as ``report.html`` in its folder; returns the path.

        Args:
            path: its ending says the format: ``html`` (one page that needs nothing else), ``md``, ``json``, or ``png``
                (the front).
            form: the format, where the ending does not say it.
            images: show some images of the data on which base and answer disagree.

        Raises:
            UserError: there is no such format, or nothing finished in the run.
        """
        from sousvit.search.report.page.write import write_report

        return write_report(self.folder, None if path is None else Path(path), form, images)

    def plot(self) -> go.Figure:
        """The figure of merit of every trial against its latency, with the front."""
        from sousvit.search.report.plot import scatter

        return scatter(self._archive, self.budget)

    @cached_property
    def _archive(self) -> Archive:
        return Archive(self.folder)

    def _nothing(self, what: str) -> UserError:
        return UserError(f"{what} needs a trial that finished", f"none in {self.folder}", "give the search more time")

    def __str__(self) -> str:
        lines = [self.status, *(f"  {limit}" for limit in self.answer.limits)]
        if self.answer.chosen is not None:
            from sousvit.search.report.terminal import short_recipe, show

            figures = [f"{name} {show(self.figures[name])}" for name in self.budget.optimize if name in self.figures]
            lines += [f"why     {self.reason}"] * bool(self.reason)
            lines += [f"recipe  {short_recipe(self.answer.chosen.recipe)}", f"        {', '.join(figures)}"]
        return "\n".join([*lines, f"run     {self.folder}"])

    def __repr__(self) -> str:
        return f"<Result {self.status}: {self.folder}>"

    def _repr_html_(self) -> str:
        """The result in a notebook."""
        parts = [
            f"<p><b>{html.escape(self.status)}</b>, run {html.escape(str(self.folder))}</p>",
            self.limits.to_html(),
        ]
        if self.answer.rows:
            parts.append(self.table.to_html())
        parts.insert(1, f"<p>{html.escape(self.reason)}</p>")
        if len(self.answer.alternatives) > 1:
            parts.append(self.alternatives.drop(columns="recipe").to_html())
        parts += [f"<p>{html.escape(note)}</p>" for note in self.answer.notes]
        return "\n".join(parts)


def write_own_bundle(result: Result) -> None:
    """Write the bundle of a search's answer into its run folder; a nearest miss gets none, and none is left there.

    Where the answer's artifact was removed since, what is there stays.
    """
    out, holds = result.folder / BUNDLE, result.answer.feasible and result.answer.row is not None
    if holds and not result.keeps_artifact:
        return
    if out.is_dir():
        shutil.rmtree(out)
    if holds:
        result.bundle(out)
