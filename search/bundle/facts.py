"""What is known of a model when its bundle is written: figures, limits, where and on what they were measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sousvit.errors import UserError
from sousvit.objectives.objective import Measurement
from sousvit.search.archive import Archive
from sousvit.search.budget import Budget
from sousvit.search.identity import noted_inputs
from sousvit.search.results import Answer, plain_values, recipe_yaml
from sousvit.search.trial import quality_of
from sousvit.search.verdict import JudgedLimit
from sousvit.spaces.export.artifact import Artifact
from sousvit.spaces.recipe import Recipe
from sousvit.specs import DataSpec, ModelSpec


@dataclass(frozen=True)
class Facts:
    """What a bundle says of its model.

    Attributes:
        artifact: the model's files.
        model: the base.
        labels: what each output means; ``LABEL_3`` where nobody named it.
        named: whether somebody did.
        recipe: what was done to the base.
        recipe_file: the same as a search writes it.
        status: whether the limits hold, see :attr:`sousvit.Result.status`.
        limits: every limit with its figure.
        figures: what was measured of the model, and ``base`` of the uncompressed one.
        images: what those were judged on.
        quality: which figure says how good predictions are.
        target: where it was timed, in words.
        machine: facts of that machine, see :func:`sousvit.machine_facts`.
        date: when the run began.
        data: where the images came from.
        inputs: content hash of model, data and plug-ins by what they were, such as ``data.test``.
        notes: what a reader must know besides.
    """

    artifact: Artifact
    model: ModelSpec
    labels: tuple[str, ...]
    named: bool
    recipe: Recipe
    recipe_file: str
    status: str
    limits: tuple[JudgedLimit, ...]
    figures: Mapping[str, Measurement]
    base: Mapping[str, Measurement]
    images: str
    quality: str
    target: str
    machine: Mapping[str, Any]
    date: str
    data: DataSpec
    inputs: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the base."""
        return self.model.name or "model"

    @property
    def transform(self) -> str | None:
        """A transform of the user's own that images went through before, in words."""
        found = self.artifact.preprocess.get("transform")
        return None if found is None else str(found)

    @property
    def task(self) -> str:
        """As Hugging Face's hub calls it."""
        return "image-classification" if self.model.detector is None else "object-detection"

    def metadata(self) -> dict[str, str]:
        """The same facts as texts, for the model file itself; lists and numbers are JSON."""
        how = {**self.artifact.preprocess, "mean": self.artifact.mean, "std": self.artifact.std}
        detector = self.model.detector
        found = {
            "sousvit": "see README.md of its bundle",
            "task": self.task,
            "base": self.name,
            "labels": list(self.labels),
            "preprocess": how,
            **({} if detector is None else {"detector": detector.model_dump(mode="json")}),
            "recipe": self.recipe.to_dict(),
            "status": self.status,
            "limits": [str(limit) for limit in self.limits],
            "figures": plain_values(self.figures),
            "judged_on": self.images,
            "target": self.target,
            "cpu": str(self.machine.get("cpu", "")),
            "date": self.date,
            "inputs": dict(self.inputs),
        }
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in found.items()}


def facts_of(answer: Answer, budget: Budget, archive: Archive, artifact: Artifact) -> Facts:
    """The facts of an answer whose artifact the run kept.

    Raises:
        UserError: no trial of the run has finished.
    """
    base, chosen = archive.base, answer.chosen
    if base is None or chosen is None:
        rule = "a bundle needs a trial that finished"
        raise UserError(rule, f"none in {archive.folder}", "give the search more time")
    row = answer.row
    figures = chosen.values if row is None else row.values
    rows = {one.role: one.values for one in answer.rows}
    images = answer.images or (budget.data.final_name if row is not None else budget.data.validation_name)
    outputs = base.shape["num_classes"] if budget.model.detector is None else budget.model.args["num_classes"]
    labels = label_names(base.class_names, int(outputs))
    return Facts(
        artifact=artifact,
        model=budget.model,
        labels=labels,
        named=bool(base.class_names),
        recipe=Recipe.from_dict(chosen.recipe),
        recipe_file=recipe_yaml(answer, budget, archive, by_name=True),
        status=answer.status,
        limits=answer.limits,
        figures=figures,
        base=rows.get("base", base.values),
        images=images,
        quality=quality_of(figures),
        target=budget.where,
        machine=base.machine,
        date=str(archive.header.get("started", ""))[:10],
        data=budget.data,
        inputs=noted_inputs(archive.folder),
        notes=answer.notes,
    )


def label_names(names: tuple[str, ...], count: int) -> tuple[str, ...]:
    """A name a label, each on one line; ``LABEL_3``, as Hugging Face has it, where there is none."""
    named = [" ".join(name.split()) for name in names[:count]]
    return tuple(name or f"LABEL_{label}" for label, name in enumerate(named + [""] * (count - len(named))))
