"""A recipe's model and artifact, built and judged without a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sousvit.checked import read_yaml, validated
from sousvit.data import ImageSet, Splits
from sousvit.data.layout import resolve_data
from sousvit.errors import UnknownNameError, UserError
from sousvit.files import disk_errors_as_user_errors
from sousvit.machine import available_cores, torch_threads
from sousvit.models.checkpoints.forms import open_source, resolved_source
from sousvit.models.load import LoadedModel
from sousvit.objectives.objective import Measurement
from sousvit.objectives.runtimes.parity import check_parity
from sousvit.objectives.runtimes.pool import open_pool
from sousvit.objectives.runtimes.runtime import get_runtime
from sousvit.objectives.runtimes.torch_ import ModuleSession
from sousvit.objectives.subject import JUDGING_BATCH
from sousvit.objectives.tasks.task import JUDGING_TASKS, Evaluation
from sousvit.search.executors.executor import Progress
from sousvit.search.judging.comparison import Compared, compared_figures, other_inputs, other_machine
from sousvit.search.judging.measure import plain
from sousvit.search.stored.moved import relocated
from sousvit.spaces.builder import ModelBuilder
from sousvit.spaces.context import Context
from sousvit.spaces.export.artifact import DESCRIPTION, Artifact
from sousvit.spaces.export.export import make_artifact
from sousvit.spaces.images import exactly_labelled, open_splits
from sousvit.spaces.module_shape import shape_of
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.techniques.synthesis.synthesiser import Synthesiser
from sousvit.spaces.training.teacher import Teacher
from sousvit.spaces.weights import WEIGHTS, save_weights
from sousvit.specs import DataSpec, ModelSpec, require_task

if TYPE_CHECKING:
    from torch import nn

    from sousvit.cache import TensorCache
    from sousvit.spaces.shape import ModelShape


@dataclass(frozen=True)
class Built:
    """What came of a recipe.

    ``model`` is the module before quantization. ``figures`` are ``size_mb`` and, by the task,
    ``validation_top1`` and ``test_top1`` and their like with 95% intervals (``agreement`` where validation images have
    no labels). ``notes`` say what reading the data dropped or changed.

    ``compared`` are the figures beside those that the recipe's file recorded, where it was built on the same model and
    data; ``agrees`` whether all of them lie within the recorded intervals, None where nothing was compared.
    """

    recipe: Recipe
    artifact: Artifact
    model: nn.Module
    figures: Mapping[str, Measurement]
    notes: list[str]
    compared: tuple[Compared, ...] = ()

    @property
    def agrees(self) -> bool | None:
        """Whether every figure agrees with the recorded one."""
        return all(one.agrees for one in self.compared) if self.compared else None

    def __getitem__(self, name: str) -> Measurement:
        return self.figures[name]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        figures = plain(self.figures)
        return {"artifact": str(self.artifact.folder), "recipe": self.recipe.to_dict(), "figures": figures,
                "notes": self.notes, "compared": [one.to_dict() for one in self.compared],
                "agrees": self.agrees}  # fmt: skip


class Workshop:
    """A base with its images: what turns recipes into models outside a search.

    Args:
        data: resolved data specification.
        cache: a run's, where models that it trained are found again.
        threads: to compute on; by default one a core.

    Raises:
        UserError: model and data do not go together, or the data is wrong.
    """

    def __init__(
        self,
        base: LoadedModel,
        data: DataSpec,
        seed: int = 0,
        cache: TensorCache | None = None,
        progress: Progress | None = None,
        threads: int | None = None,
    ) -> None:
        require_task(base.spec, data)
        self.threads = threads or available_cores()
        synthesiser = Synthesiser(base, seed, data.calibration, cache, progress)
        self.base, self.splits = base, open_splits(data, base, synthesiser, cache)
        context = Context(
            normalise=base.normalise,
            calibration=self.splits.calibration(),
            train=self.splits.train,
            teacher=Teacher(base, self.splits.train, cache, progress),
            seed=seed,
            progress=progress,
            synthesise=synthesiser if data.kind == "none" else None,
        )
        self.builder = ModelBuilder(base, context, cache)

    def model(self, recipe: Recipe, fidelity: float = 1.0) -> nn.Module:
        """The recipe's model before quantization.

        Raises:
            UserError: the recipe does not fit the model.
            TrialError: it cannot be built.
        """
        with torch_threads(self.threads):
            return self.builder.build(recipe, fidelity)

    @cached_property
    def shape(self) -> ModelShape:
        """The base's."""
        base = self.base
        return shape_of(base.module, base.spec.name or "the model", base.size, base.channels, base.num_classes)

    def export(self, recipe: Recipe, out: Path, fidelity: float = 1.0, model: nn.Module | None = None) -> Artifact:
        """The recipe's artifact in ``out``, of its model or of another one.

        Raises:
            UserError: the recipe does not fit the model.
            TrialError: it cannot be built.
        """
        base, model = self.base, self.model(recipe, fidelity) if model is None else model
        shape, context = (1, base.channels, *base.size), self.builder.context_of(recipe)
        with torch_threads(self.threads):
            how, step = base.preprocess.steps, recipe.deploy_step
            return make_artifact(model, shape, base.mean, base.std, recipe.runtime, step, context, out, how)

    def part(self, name: str) -> ImageSet:
        """A part of the images by its name.

        Raises:
            UserError: there is no such part.
        """
        if name == "test":
            return self.splits.open_test()
        parts = {"train": self.splits.train, "validation": self.splits.validation}
        if name not in parts:
            raise UnknownNameError("part of the data", name, (*parts, "test"))
        return parts[name]

    def evaluate(self, judged: Artifact | nn.Module, images: ImageSet, model: nn.Module | None = None) -> Evaluation:
        """What an artifact or a module predicts.

        Args:
            judged: an artifact runs in its own runtime, a module in PyTorch.
            images: to be judged on.
            model: that was exported, for what the outputs mean; by default the base.
        """
        task, base = JUDGING_TASKS.get(self.base.spec.task), self.base
        if isinstance(judged, Artifact):
            batch = 1 if judged.batch_dependent else JUDGING_BATCH
            with open_pool(judged, self.threads) as session:
                return task.evaluate(session, model or base.module, images, base.normalise, batch)
        session = ModuleSession(judged.eval(), self.threads)
        return task.evaluate(session, judged, images, base.normalise, JUDGING_BATCH)


def build_recipe(
    recipe: Recipe,
    base: LoadedModel,
    data: DataSpec,
    out: Path,
    fidelity: float = 1.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Built:
    """Build a recipe's artifact in ``out`` and judge it on validation, and on test where there is one.

    Raises:
        UserError: model and data do not go together, or the recipe does not fit them.
        TrialError: the recipe cannot be built on this model.
    """
    with torch_threads(available_cores()):
        require_task(base.spec, data)
        recipe.reshape(shape_of(base.module, base.spec.name or "the model", base.size, base.channels, base.num_classes))
        workshop = Workshop(base, data, seed, progress=progress)
        decisions: dict[str, Any] = {}
        model = workshop.builder.build(recipe, fidelity, decisions=decisions)
        artifact = workshop.export(recipe, out, fidelity, model)
        with disk_errors_as_user_errors(out):
            save_weights(out / WEIGHTS, model, base, recipe, decisions)
        figures = _judge(artifact, model, base, workshop.splits, recipe)
    return Built(recipe, artifact, model, figures, [*base.notes, *workshop.splits.notes])


def beside_recorded(built: Built, file: RecipeFile, model: ModelSpec, data: DataSpec, same_run: bool) -> Built:
    """What was built beside what its recipe file recorded, where both are of the same model and data.

    Args:
        same_run: whether fidelity and seed are the file's too.
    """
    others = other_inputs(model, data, file.values)
    compared = compared_figures(built.figures, file.values) if same_run and not others else ()
    notes = list(built.notes)
    if others:
        notes.append(f"not compared with the recorded figures: other content of {', '.join(others)}")
    different = other_machine(file.values)
    if different and any(not one.agrees for one in compared):
        notes.append(f"the figures were recorded on another machine: {different}")
    return replace(built, compared=compared, notes=notes)


def require_buildable(recipe: Recipe, out: Path) -> None:
    """Check what can be told before anything is loaded or trained.

    Raises:
        MissingPackageError: a package that the recipe needs is not installed.
        UserError: ``out`` holds something else than an artifact, which may be replaced.
    """
    get_runtime(recipe.runtime).require()
    for step in recipe.steps:
        step.handler.needs.require_packages(step.technique)
    if out.exists() and not (out / DESCRIPTION).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError("the folder must be new, empty, or an artifact's", out, "choose another --out")


def _judge(
    artifact: Artifact, model: nn.Module, base: LoadedModel, splits: Splits, recipe: Recipe
) -> dict[str, Measurement]:
    with open_pool(artifact, available_cores()) as session:
        probe = base.normalise(splits.validation.head(16).images()).numpy()
        check_parity(session, model, probe, quantized=recipe.is_quantized)
        spec = splits.spec
        judged = splits.validation if spec.kind == "labelled" else exactly_labelled(base, splits.validation)
        parts: dict[str, ImageSet] = {"validation" if spec.kind == "labelled" else "agreement": judged}
        if spec.has_test:
            parts["test"] = splits.open_test()
        figures = {"size_mb": Measurement(artifact.size_bytes / 1e6)}
        for name, images in parts.items():
            batch = 1 if artifact.batch_dependent else JUDGING_BATCH
            found = JUDGING_TASKS.get(base.spec.task).evaluate(session, model, images, base.normalise, batch)
            if name == "agreement":
                figures[name] = Measurement(*found.merit())
                continue
            figures |= {f"{name}_{key}": Measurement(*value) for key, value in found.figures().items()}
    return figures


@dataclass(frozen=True)
class RecipeFile:
    """A recipe as a search writes it: with the model, data, fidelity and seed that it was made with.

    ``path`` is where it came from; ``values`` are all that stands there.
    """

    recipe: Recipe
    path: Path = Path()
    values: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> RecipeFile:
        """The file at ``path``.

        Raises:
            UserError: no recipe there, or a wrong one.
        """
        value = read_yaml(path)
        if not isinstance(value.get("recipe"), dict):
            rule, received = "a recipe file holds recipe: {runtime, steps}", f"keys {sorted(value)} in {path}"
            raise UserError(rule, received, "see a run's recipe.yaml")
        return cls(Recipe.from_dict(value["recipe"]), path, relocated(value, path.parent))

    @property
    def fidelity(self) -> float:
        """Share of the recovery epochs."""
        return float(self._number("fidelity", 1.0, float, 1.0))

    @property
    def seed(self) -> int:
        """Of everything random."""
        return int(self._number("seed", 0, int, 2**31 - 1))

    def model(self, other: str | None = None) -> ModelSpec:
        """The model that the file names, resolved; or another.

        Args:
            other: a checkpoint of any form, a timm name, or a YAML file with ``model``.

        Raises:
            UserError: it is wrong, or the file's own would run code.
        """
        if other is None:
            return self._own_model().resolved(self.path.parent)
        if other.endswith((".yaml", ".yml")):
            place = Path(other)
            return validated(ModelSpec, read_yaml(place).get("model") or {}, f"{other}: model").resolved(place.parent)
        spec = validated(ModelSpec, other, "the model")
        if spec.checkpoint is None:
            return spec
        own = self.values.get("model") if isinstance(self.values.get("model"), dict) else {}
        # What the checkpoint says of itself comes first: it may be of another size than the recipe's base.
        described = open_source(resolved_source(spec.checkpoint, Path())).name is not None
        names = () if described else ("name", "args", "mean", "std", "detector")
        kept = {key: entry for key, entry in (own or {}).items() if key in names}
        return validated(ModelSpec, {**kept, "checkpoint": spec.checkpoint}, "the model").resolved(Path())

    def _own_model(self) -> ModelSpec:
        spec = validated(ModelSpec, self.values.get("model") or {}, f"{self.path}: model")
        if spec.factory is not None:
            rule = "a recipe file is data: code that it names is not run"
            raise UserError(rule, f"factory: {spec.factory} in {self.path}", "name the model yourself")
        return spec

    def data(self) -> DataSpec:
        """The data that the file names, resolved.

        Raises:
            UserError: none, or wrong.
        """
        return _data(self.values, self.path)

    def _number(self, name: str, default: Any, kind: type, most: float) -> Any:
        given = self.values.get(name, default)
        if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= most:
            raise UserError(f"{name} is a number from 0 to {most}", repr(given), "correct the recipe file")
        return kind(given)


def read_data(path: Path) -> DataSpec:
    """The ``data`` of a YAML file, resolved.

    Raises:
        UserError: none, or wrong.
    """
    return _data(read_yaml(path), path)


def _data(values: Mapping[str, Any], path: Path) -> DataSpec:
    if not values.get("data"):
        raise UserError("a recipe needs data for calibration and recovery", "none", "name data in YAML, or train=...")
    return resolve_data(validated(DataSpec, values["data"], f"{path}: data"), path.parent)
