"""``sousvit apply`` and ``sousvit measure``: one recipe to its artifact, one artifact to its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sousvit.data import ImageSet, Splits
from sousvit.errors import MissingPackageError, UserError
from sousvit.machine import available_cores
from sousvit.models.load import LoadedModel, load
from sousvit.objectives.devices.open import open_device
from sousvit.objectives.runtimes.parity import check_agreement
from sousvit.objectives.runtimes.pool import open_pool
from sousvit.objectives.runtimes.runtime import get_runtime
from sousvit.objectives.subject import JUDGING_BATCH
from sousvit.objectives.targets.profiles import load_target
from sousvit.objectives.tasks.task import JUDGING_TASKS
from sousvit.objectives.timing import CAREFUL
from sousvit.schema import read_yaml, validated
from sousvit.search.executors.executor import Progress
from sousvit.spaces.builder import ModelBuilder
from sousvit.spaces.context import Context
from sousvit.spaces.export.artifact import DESCRIPTION, Artifact
from sousvit.spaces.export.export import make_artifact
from sousvit.spaces.images import exactly_labelled, open_splits
from sousvit.spaces.module_shape import shape_of
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.techniques.synthesis.synthesiser import Synthesiser
from sousvit.spaces.training.teacher import Teacher
from sousvit.specs import DataSpec, ModelSpec, read_description, require_task


def apply_recipe(
    path: Path, out: Path, model: str | None = None, data: Path | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Build a recipe's artifact in ``out`` and judge it on validation, and on test where there is one.

    The result holds ``artifact``, ``recipe``, ``figures``, and ``notes``: what reading the data dropped or changed.

    Args:
        path: a recipe file as a search writes it (or with at least ``recipe``, ``model`` and ``data``).
        model: a safetensors checkpoint, a timm name, or a YAML file with ``model``.
        data: a YAML file with ``data``.

    Raises:
        UserError: a wrong file, model or data.
        TrialError: the recipe cannot be built on this model.
    """
    import torch

    torch.set_num_threads(available_cores())
    value = read_yaml(path)
    if not isinstance(value.get("recipe"), dict):
        raise UserError(
            "a recipe file holds recipe: {runtime, steps}", f"keys {sorted(value)} in {path}", "see a run's recipe.yaml"
        )
    recipe = Recipe.from_dict(value["recipe"])
    _require_installed(recipe)
    _require_free(out)
    base, data_spec = load(_model_spec(value, path, model)), _data_spec(value, path, data)
    require_task(base.spec, data_spec)
    recipe.reshape(shape_of(base.module, base.spec.name or "the model", base.size, base.channels, base.num_classes))
    seed = _number(value, "seed", 0, int)
    synthesiser = Synthesiser(base, seed, data_spec.calibration, progress=progress)
    splits = open_splits(data_spec, base, synthesiser)
    context = Context(
        normalise=base.normalise,
        calibration=splits.calibration(),
        train=splits.train,
        teacher=Teacher(base, splits.train, progress=progress),
        seed=seed,
        progress=progress,
        synthesise=synthesiser if data_spec.kind == "none" else None,
    )
    builder = ModelBuilder(base, context)
    compressed = builder.build(recipe, _number(value, "fidelity", 1.0, float))
    context = builder.context_of(recipe)
    shape = (1, base.channels, *base.size)
    artifact = make_artifact(compressed, shape, base.mean, base.std, recipe.runtime, recipe.deploy_step, context, out)
    figures = _judge(artifact, compressed, base, splits, recipe)
    return {"artifact": str(out), "recipe": recipe.to_dict(), "figures": figures, "notes": splits.notes}


def _require_installed(recipe: Recipe) -> None:
    """Told before anything is trained."""
    get_runtime(recipe.runtime).require()
    for step in recipe.steps:
        for package in step.handler.missing_packages():
            raise MissingPackageError(package, step.technique, step.handler.extra)


def _require_free(out: Path) -> None:
    """An artifact's folder may be replaced, nothing else."""
    if out.exists() and not (out / DESCRIPTION).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError("the folder must be new, empty, or an artifact's", out, "choose another --out")


def _judge(artifact: Artifact, compressed: Any, base: LoadedModel, splits: Splits, recipe: Recipe) -> dict[str, Any]:
    with open_pool(artifact, available_cores()) as session:
        probe = base.normalise(splits.validation.head(16).images()).numpy()
        check_agreement(session, compressed, probe, quantized=recipe.is_quantized)
        spec = splits.spec
        judged = splits.validation if spec.kind == "labelled" else exactly_labelled(base, splits.validation)
        parts: dict[str, ImageSet] = {"validation" if spec.kind == "labelled" else "agreement": judged}
        if spec.has_test:
            parts["test"] = splits.open_test()
        figures: dict[str, Any] = {"size_mb": artifact.size_bytes / 1e6}
        for name, images in parts.items():
            batch = 1 if artifact.batch_dependent else JUDGING_BATCH
            found = JUDGING_TASKS.get(base.spec.task).evaluate(session, compressed, images, base.normalise, batch)
            if name == "agreement":
                figures[name] = list(found.merit())
                continue
            figures |= {f"{name}_{key}": list(value) for key, value in found.figures().items()}
    return figures


def _model_spec(value: dict[str, Any], path: Path, model: str | None) -> ModelSpec:
    if model is None:
        return validated(ModelSpec, value.get("model") or {}, f"{path}: model").resolved(path.parent)
    if model.endswith((".yaml", ".yml")):
        other = Path(model)
        return validated(ModelSpec, read_yaml(other).get("model") or {}, f"{model}: model").resolved(other.parent)
    if model.endswith(".safetensors"):
        own = value.get("model") if isinstance(value.get("model"), dict) else {}
        # What the checkpoint says of itself comes first: it may be of another size than the recipe's base.
        described = read_description(Path(model))
        names = () if described else ("name", "args", "mean", "std", "detector")
        kept = {key: entry for key, entry in (own or {}).items() if key in names}
        return validated(ModelSpec, {**kept, "checkpoint": model}, "--model").resolved(Path())
    return validated(ModelSpec, {"name": model, "pretrained": True}, "--model")


def _data_spec(value: dict[str, Any], path: Path, data: Path | None) -> DataSpec:
    source, folder = (value, path.parent) if data is None else (read_yaml(data), data.parent)
    if not source.get("data"):
        raise UserError("a recipe needs data for calibration and recovery", "none", "give --data a YAML file with data")
    return validated(DataSpec, source["data"], f"{data or path}: data").resolved(folder)


def _number(value: dict[str, Any], name: str, default: Any, kind: type) -> Any:
    try:
        return kind(value.get(name, default))
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} is a number", repr(value.get(name)), "correct the recipe file") from error


def measure_artifact(folder: Path, baseline: Path | None, target_name: str) -> dict[str, Any]:
    """Latency (with interval), size and memory of an artifact; with a baseline also the interleaved ratio.

    Raises:
        UserError: no artifact there, no such target, or a baseline that takes another input.
    """
    target = load_target(target_name)
    artifact = Artifact.open(folder)
    other = artifact if baseline is None else Artifact.open(baseline)
    if other.input_shape != artifact.input_shape:
        raise UserError(
            "artifact and baseline take the same input",
            f"{artifact.input_shape} and {other.input_shape}",
            "compare others",
        )
    device = open_device(target)
    facts = device.check()
    try:
        device.admit(artifact)
        pair = {"baseline": other} if baseline is None else {"artifact": artifact, "baseline": other}
        timing = device.time(pair, "baseline", CAREFUL)["baseline" if baseline is None else "artifact"]
        probe = device.probe(artifact)
    finally:
        device.close()
    figures: dict[str, Any] = {
        "runtime": artifact.runtime,
        "target": str(target),
        "machine": f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gb']} GB",
        "latency_p50_ms": [timing.p50_ms, timing.p50_low_ms, timing.p50_high_ms],
        "latency_p95_ms": timing.p95_ms,
        "latency_p99_ms": timing.p99_ms,
        "throughput_images_s": 1e3 * timing.batch / timing.p50_ms,
        "size_mb": artifact.size_bytes / 1e6,
        "memory_mb": probe.memory_bytes / 1e6,
        "load_time_ms": probe.load_ms,
    }
    if facts["energy"]:
        figures["energy_mj"] = device.energy_mj(artifact, CAREFUL)
    if baseline is not None:
        figures["baseline_p50_ms"] = timing.baseline_p50_ms
        figures["ratio"] = [timing.ratio, timing.ratio_low, timing.ratio_high]
        figures["speed_up"] = timing.speedup
        figures["size_ratio"] = artifact.size_bytes / other.size_bytes
    if timing.noisy:
        figures["warning"] = "noisy: the machine was busy, measure again"
    return {"artifact": str(folder), "figures": figures}
