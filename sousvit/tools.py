"""One recipe to its artifact, one artifact to its figures, policies on a table, and lists of what there is."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sousvit.errors import UserError
from sousvit.inputs import data_input, model_input
from sousvit.objectives.targets.profiles import load_target
from sousvit.objectives.targets.target import Target
from sousvit.search.executors.spawn import end_if_rerun
from sousvit.search.report import listing
from sousvit.spaces.recipe import Recipe
from sousvit.text.paths import at_home

if TYPE_CHECKING:
    from torch import nn

    from sousvit.models.load import LoadedModel
    from sousvit.search.budget import Budget
    from sousvit.search.bundle.predicting import Found
    from sousvit.search.check import Checked
    from sousvit.search.executors.executor import Progress
    from sousvit.search.judging.build import Built
    from sousvit.search.judging.measure import Measured
    from sousvit.search.judging.verification import Verification
    from sousvit.search.replay.compare import Comparison
    from sousvit.spaces.export.artifact import Artifact
    from sousvit.specs import ModelSpec


def build(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    model: nn.Module | str | Path | Mapping[str, Any] | ModelSpec | None = None,
    *,
    out: str | Path,
    train: Any = None,
    validation: Any = None,
    test: Any = None,
    fidelity: float | None = None,
    seed: int | None = None,
    progress: Progress | None = None,
) -> Built:
    """The compressed, exported model of a recipe, judged on validation images and on the test split.

    Where a file recorded figures, and model and data are those that it recorded, ``compared`` holds each beside what
    was measured now, and ``agrees`` says whether all lie within the recorded intervals.

    Args:
        recipe: a recipe, its plain values, or a file as a search writes it, which names the rest too.
        model: as for :func:`compress`; by default the file's.
        out: the artifact's folder: new, empty, or an artifact's.
        train: as for :func:`compress`; by default the file's data.
        validation: as for :func:`compress`.
        test: as for :func:`compress`.
        fidelity: share of the recovery epochs; by default the file's, or 1.
        seed: of everything random; by default the file's, or 0.
        progress: told what is being done.

    Raises:
        UserError: a wrong file, model or data, or a package that is missing.
        TrialError: the recipe cannot be built on this model.
    """
    from sousvit.models.load import load
    from sousvit.search.identity import changed_beside, told_of_changes
    from sousvit.search.judging.build import RecipeFile, beside_recorded, build_recipe, require_buildable

    if isinstance(recipe, str | Path):
        file = RecipeFile.read(Path(recipe))
    else:
        file = RecipeFile(recipe if isinstance(recipe, Recipe) else Recipe.from_dict(recipe))
    folder = Path(out)
    require_buildable(file.recipe, folder)
    with tempfile.TemporaryDirectory(prefix="sousvit-inputs-") as inputs:
        base: LoadedModel | None = None
        if model is None or isinstance(model, str | Path):
            spec = file.model(None if model is None else str(model))
        else:
            spec, base = model_input(model, Path(inputs))
        base = base or load(spec)
        given = [train, validation, test] != [None] * 3
        data = data_input(train, validation, test, Path(inputs)) if given else file.data()
        same_run = fidelity in (None, file.fidelity) and seed in (None, file.seed)
        fidelity = file.fidelity if fidelity is None else fidelity
        seed = file.seed if seed is None else seed
        built = build_recipe(file.recipe, base, data, folder, fidelity, seed, progress)
        built = beside_recorded(built, file, spec, data, same_run)
    return replace(built, notes=[*built.notes, *told_of_changes(changed_beside(recipe))])


def check(
    budget: Budget | Mapping[str, Any] | str | Path,
    *,
    sheet: str | Path = "check.png",
    progress: Progress | None = None,
) -> Checked:
    """Everything that a search does before its first trial, without a run.

    Args:
        budget: a budget, its YAML file, or its values.
        sheet: PNG to write: images as the model sees them.
        progress: told what is being done.

    Raises:
        UserError: what would stop the search, in one line.
    """
    from sousvit.search.budget import read_budget
    from sousvit.search.check import check

    return check(read_budget(budget), Path(sheet), progress or (lambda what, done, total: None))


def schema() -> dict[str, Any]:
    """The JSON schema of budgets, for editors that complete and check YAML."""
    from sousvit.search.budget_schema import budget_schema

    return budget_schema()


def import_model(model: nn.Module | str | Path | Mapping[str, Any] | ModelSpec, *, out: str | Path) -> dict[str, Any]:
    """A model of any form as one safetensors file that describes itself.

    Args:
        model: as for :func:`compress`: a file or folder of timm, PyTorch or Hugging Face, ``hf-hub:owner/model``,
            timm's name (with its own weights), ``{"from": ..., "name": ..., "args": {...}}``, or a module.
        out: the file.

    Returns:
        The description in it: timm's name and arguments, mean, std, class names, and notes on what was decided.

    Raises:
        UserError: nothing there, no known form, weights that do not fit, or ``out`` cannot be written.
    """
    from sousvit.models.load import describe, load, save_checkpoint

    path = at_home(out)
    if path.suffix != ".safetensors":
        raise UserError("a checkpoint is written as safetensors", path.name, "let --out end in .safetensors")
    with tempfile.TemporaryDirectory(prefix="sousvit-inputs-") as inputs:
        spec, base = model_input(model, Path(inputs))
        base = base or load(spec)
    if base.spec.factory is not None:
        raise UserError("what is imported is made by timm", f"{base.spec.name}", "keep the module with its own code")
    description = describe(base)
    save_checkpoint(path, base.module, description)
    return description


def measure(
    artifact: Artifact | str | Path,
    *,
    baseline: Artifact | str | Path | None = None,
    target: str | Path | Target = "local-1-thread",
) -> Measured:
    """Latency, size and memory of an artifact, with intervals; with a baseline, timed in the same groups as it.

    Raises:
        UserError: no artifact there, no such target, or a baseline that takes another input.
    """
    from sousvit.search.judging.measure import measure_artifact
    from sousvit.spaces.export.artifact import Artifact

    def opened(given: Artifact | str | Path) -> Artifact:
        return given if isinstance(given, Artifact) else Artifact.open(Path(given))

    place = target if isinstance(target, Target) else load_target(target)
    return measure_artifact(opened(artifact), None if baseline is None else opened(baseline), place)


def verify(
    what: str | Path,
    budget: Budget | str | Path | Mapping[str, Any],
    *,
    junit: str | Path | None = None,
    strict: bool = False,
    progress: Progress | None = None,
) -> Verification:
    """Every limit of a budget, held against a recipe or artifact on the test split; its ``status`` sums them up.

    Args:
        what: a recipe file, which is built; or the folder of an artifact or a bundle, which is measured as it is.
        budget: a budget, its YAML file, or its values: the model, the data, the target and the limits.
        junit: a file for the result as JUnit XML, with a test case a limit.
        strict: there, a limit that was not shown to hold is a failure too.
        progress: told what is being done.

    Raises:
        UserError: nothing to verify there, or a wrong budget.
        TrialError: the recipe cannot be built on this model.
    """
    from sousvit.search.budget import read_budget
    from sousvit.search.identity import changed_beside, told_of_changes
    from sousvit.search.judging.verification import verify_path
    from sousvit.search.report.junit import write_junit

    asked = read_budget(budget)
    with tempfile.TemporaryDirectory(prefix="sousvit-verify-") as work:
        found = verify_path(Path(what), asked, Path(work), progress or (lambda what, done, total: None))
    found = replace(found, notes=(*found.notes, *told_of_changes(changed_beside(what))))
    if junit is not None:
        write_junit(found, Path(junit), strict)
    return found


def predict(bundle: str | Path, images: Sequence[str | Path]) -> list[tuple[Path, list[Found]]]:
    """What a bundle's model finds on image files: five classes with probabilities, or objects with boxes.

    The bundle may be anyone's: its files are held to their check sums, its model runs in a process of its own, and none
    of its code is run.

    Args:
        bundle: the folder that ``sousvit bundle`` or :meth:`.Result.bundle` wrote.
        images: their files.

    Returns:
        Each image with what was found, the surest first: ``label``, ``score`` and, of an object, ``box``
        ``(x1, y1, x2, y2)`` in pixels of the file.

    Raises:
        UserError: no bundle there, or a changed one; images reached its model through a transform that could not
            travel; or an image cannot be read.
    """
    from sousvit.search.bundle.predicting import predict_files

    return list(predict_files(at_home(bundle), [at_home(image) for image in images]))


def load_model(folder: str | Path) -> nn.Module:
    """The compressed model of a bundle before quantization, as a module to be trained further.

    It takes normalised images float32 ``[B, C, H, W]`` and gives logits ``[B, classes]`` (a detector its dense
    predictions). The base and the data are not needed, and no code of the folder is run.

    Args:
        folder: a bundle, an artifact that ``sousvit apply`` wrote, or its folder ``pytorch``.

    Raises:
        UserError: no weights there, or they do not fit what the folder says of them.
    """
    from sousvit.spaces.weights import WEIGHTS, load_weights

    path = at_home(folder)
    return load_weights(path / WEIGHTS if (path / WEIGHTS).is_dir() else path)


def replay(
    table: str | Path,
    policies: Sequence[str] | None = None,
    *,
    evaluations: int = 164,
    seconds: float | None = None,
    seeds: int = 30,
    workers: int = 1,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Search policies side by side on a recorded table: hypervolume against evaluations and time, over many seeds.

    Args:
        table: YAML that describes it.
        policies: names; by default all that a search may use.
        evaluations: that each policy gets.
        seconds: of recorded time that each policy gets, instead of evaluations.
        seeds: how many.
        workers: processes; a policy's own time is charged, so no more than idle cores.
        out: a folder for every curve (``replay.json``), the table (``replay.md``) and a plot (``replay.html``).
        progress: told how many replays are done, and of how many.

    Raises:
        UserError: a bad table or an unknown policy.
    """
    from sousvit.search.replay.compare import compare, write_comparison
    from sousvit.search.replay.policies import POLICIES

    end_if_rerun()
    found = compare(Path(table), policies or list(POLICIES), evaluations, seeds, workers, progress, seconds)
    if out is not None:
        write_comparison(found, Path(out))
    return found


def list_techniques() -> list[dict[str, str]]:
    """Techniques: name, stage, parameters, summary, source."""
    return listing.technique_rows()


def list_objectives() -> list[dict[str, str]]:
    """Objectives: name, unit, direction, the stage at which they are measured, summary."""
    return listing.objective_rows()


def list_proposers() -> list[dict[str, str]]:
    """Proposers: name, summary."""
    return listing.proposer_rows()


def list_targets() -> list[dict[str, str]]:
    """Shipped target profiles: name, device, runtimes, threads, batch, summary."""
    return listing.target_rows()


def list_spaces() -> list[dict[str, str]]:
    """Shipped spaces: name, techniques, summary."""
    return listing.space_rows()
