"""The conformance suite that every technique must pass, ours in our tests and a user's in theirs.

sousvit.check_technique(KeepFirst)
"""

from __future__ import annotations

import json
import pickle
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sousvit.data import ImageSet
from sousvit.data.memory import memory_set
from sousvit.errors import MissingPackageError
from sousvit.registry import on_trial
from sousvit.spaces.builder import apply_steps
from sousvit.spaces.context import Context
from sousvit.spaces.export.artifact import Artifact
from sousvit.spaces.export.export import make_artifact
from sousvit.spaces.layers.merging import merged
from sousvit.spaces.module_shape import macs_of, shape_of, vit_shape
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.shape import VitShape
from sousvit.spaces.space import Option
from sousvit.spaces.technique import TECHNIQUES, DeployTechnique, ModelTechnique, Technique

#: Matrix weights of a model from which on fewer bits a weight must show in the file.
TELLING_WEIGHTS = 50_000
CLASSES = 5
TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 64, "num_heads": 4, "num_classes": CLASSES}


def check_technique(technique: type[Technique] | Technique, runtimes: Iterable[str] | None = None) -> None:
    """Hold a technique to the contract, on a tiny Vision Transformer with random weights and images of noise.

    Args:
        technique: a class or an instance; it need not be registered.
        runtimes: for which a deployment technique makes an artifact; by default every one that is installed.

    Raises:
        AssertionError: says which rule is broken.
    """
    with on_trial(technique, TECHNIQUES) as held:
        _check(held, runtimes)


def _check(technique: Technique, runtimes: Iterable[str] | None) -> None:
    shape = vit_shape(tiny_vit())
    check_declaration(technique, shape)
    misfit = technique.misfit(shape)
    assert misfit is None, f"{technique.name}: must fit a plain Vision Transformer to be checked: {misfit}"
    if isinstance(technique, DeployTechnique):
        with tempfile.TemporaryDirectory() as folder:
            for runtime in technique.runtimes if runtimes is None else runtimes:
                try:
                    # Two blocks: some conversions take a second for each.
                    check_deployment(technique, runtime, tiny_vit(2), tiny_context(), Path(folder) / runtime)
                except MissingPackageError:
                    continue  # of the runtime, which may be absent
    else:
        check_model_technique(technique, tiny_vit, tiny_context())
        _check_repeats(technique, shape)


def check_declaration(technique: Technique, shape: VitShape) -> None:
    """What a technique says of itself, and that its parameters survive JSON, YAML and pickling.

    Raises:
        AssertionError: says which rule is broken.
    """
    name = technique.name
    for key in ("summary", "source"):
        text = getattr(technique, key)
        assert isinstance(text, str) and text and "\n" not in text, f"{name}: {key} must be one line, not {text!r}"
    assert technique.runtimes, f"{name}: it suits no runtime"
    choices = technique.choices(shape)
    unknown = set(choices) - set(technique.config.model_fields)
    assert not unknown, f"{name}: choices names {unknown}, which are no parameters"
    first = {parameter: values[0] for parameter, values in choices.items() if values}
    for parameter, values in choices.items():
        for value in values:
            _check_step(technique, Step.make(name, **{**first, parameter: value}), shape)


def _check_step(technique: Technique, step: Step, shape: VitShape) -> None:
    recipe = Recipe((step,), technique.runtimes[0])
    for again in (
        Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))),
        Recipe.from_yaml(recipe.to_yaml()),
        pickle.loads(pickle.dumps(recipe)),
    ):
        assert again == recipe, f"{step}: must survive JSON, YAML and pickling, not become {again}"
    if technique.misfit(shape) is not None:
        return
    normal = technique.normalised(step.config, shape)
    assert technique.normalised(normal, shape) == normal, f"{step}: what is normalised must stay as it is"
    if isinstance(technique, ModelTechnique) and technique.is_identity(step.config, shape):
        assert technique.reshape(shape, step.config) == shape, f"{step}: is_identity, and yet reshape changes the shape"


def middle_step(technique: Technique, shape: VitShape) -> Step:
    """A setting that changes something."""
    return Option(technique.name, dict(technique.choices(shape))).samples(shape)[0]


def check_model_technique(technique: Technique, make: Callable[[], nn.Module], context: Context) -> nn.Module:
    """The model that a middle setting leaves, with and without data, held against the shape that was announced.

    Args:
        technique: fits what ``make`` gives.
        make: a plain Vision Transformer, alike at each call.
        context: with calibration images, and for one that trains with training images and a teacher.

    Returns:
        What it leaves with data.

    Raises:
        AssertionError: says which rule is broken.
    """
    assert isinstance(technique, ModelTechnique)
    model = make()
    shape = vit_shape(model)
    step = middle_step(technique, shape)
    assert not technique.is_identity(step.config, shape), f"{step}: some of the choices must change something"
    expected = technique.reshape(shape, step.config)
    zeros = _zeros(model)
    context = replace(context, decisions={})
    changed = technique.apply(model, step.config, context)
    bare = technique.apply(make(), step.config, Context(context.normalise, decisions=context.decisions))
    for one, data in ((changed, "with"), (bare, "without")):
        assert not one.training, f"{step}: the model must be in eval mode ({data} data)"
        name = getattr(expected, "name", "")
        found = shape_of(one, name, shape.image, shape.channels, shape.num_classes)
        assert found == expected or technique.shapes_by_data(step.config), (
            f"{step}: reshape announced another shape than apply left {data} data: {expected}, {found}"
        )
    assert _sizes(changed) == _sizes(bare), f"{step}: without data other names or sizes of weights than with"
    assert expected.macs() == macs_of(merged(changed), (shape.channels, *shape.image)) or technique.shapes_by_data(
        step.config
    ), f"{step}: reshape counts other MACs than the model takes"
    assert context.calibration is not None
    with torch.no_grad():
        output = changed(context.normalise(context.calibration.head(4).images()))
    assert output.shape == (4, shape.num_classes), f"{step}: predictions of shape {tuple(output.shape)}"
    assert torch.isfinite(output).all(), f"{step}: predictions must be finite"
    if technique.role.compresses:
        cheaper = expected.macs() < shape.macs() or expected.params() < shape.params()
        fewer_bits = technique.bytes_per_weight(step.config) < 4
        assert cheaper or fewer_bits or _zeros(changed) > zeros, f"{step}: its role is to compress, and it does not"
    elif not technique.role.changes_structure:
        assert expected == shape, f"{step}: its role leaves the structure alone, and it does not"
    return changed


def check_deployment(
    technique: Technique, runtime: str, model: nn.Module, context: Context, folder: Path
) -> tuple[Recipe, Artifact]:
    """The artifact that a middle setting makes for ``runtime``: smaller with fewer bits, and the model is untouched.

    Args:
        technique: suits the runtime.
        runtime: whose packages are installed.
        model: a plain Vision Transformer.
        context: with calibration images.
        folder: for the artifacts.

    Raises:
        AssertionError: says which rule is broken.
        MissingPackageError: a package of the runtime or the technique is not installed.
    """
    recipe = Recipe((middle_step(technique, vit_shape(model)),), runtime)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    artifact = exported(model, recipe, context, folder / "artifact")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), (
        f"{recipe}: prepare is given a copy; the model itself must stay as it is"
    )
    weights = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim > 1)
    if recipe.bytes_per_weight < 4 and weights > TELLING_WEIGHTS and weight_bytes(artifact) >= 4 * weights:
        plain = exported(model, Recipe((), runtime), context, folder / "plain")
        assert weight_bytes(artifact) < weight_bytes(plain), f"{recipe}: fewer bits must show in the file"
    return recipe, artifact


def exported(model: nn.Module, recipe: Recipe, context: Context, folder: Path) -> Artifact:
    """``model`` in the runtime of ``recipe``, by its deployment step."""
    images = context.calibration
    assert images is not None
    mean, std = (0.5,) * images.channels, (0.25,) * images.channels
    shape = (1, images.channels, *images.size)
    return make_artifact(model, shape, mean, std, recipe.runtime, recipe.deploy_step, context, folder)


def weight_bytes(artifact: Artifact) -> int:
    """Bytes of the file with the weights; OpenVINO writes the graph into another one, which grows."""
    weights = artifact.path.with_suffix(".bin")
    return (weights if weights.is_file() else artifact.path).stat().st_size


def _check_repeats(technique: Technique, shape: VitShape) -> None:
    """The same weights for the same seed, and without images too where it says that it needs none."""
    recipe = Recipe((middle_step(technique, shape),), technique.runtimes[0])
    once, again = (apply_steps(tiny_vit(), recipe, tiny_context()) for _ in range(2))
    assert _equal(once, again), f"{recipe}: other weights for the same seed"
    if not technique.needs.images:
        blind = apply_steps(tiny_vit(), recipe, replace(tiny_context(), calibration=None, train=None, teacher=None))
        assert _equal(once, blind), f"{recipe}: needs no images, and yet changes weights by them"


def _zeros(model: nn.Module) -> int:
    return sum(int((parameter == 0).sum()) for parameter in model.parameters())


def _sizes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


def _equal(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def tiny_vit(depth: int = 4) -> nn.Module:
    """A plain Vision Transformer of 16 patches, alike at each call, with weights large enough for each to matter."""
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", depth=depth, **TINY)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, parameter[0].numel() ** -0.5)
    return model.eval()


def tiny_context() -> Context:
    """64 images of noise, 16 of them to train on, and a teacher without an opinion."""
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (64, 3, 16, 16), dtype=np.uint8))
    images = memory_set("noise", pixels, torch.arange(64) % CLASSES, "noise")
    train = images.head(16)
    return Context(_to_float, calibration=images, train=train, teacher=FlatTeacher(len(train), CLASSES), fidelity=0.25)


def _to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 ``[B, C, H, W]`` to [-2, 2)."""
    return images.float() / 64 - 2


class FlatTeacher:
    """A teacher that says the same of every image.

    Args:
        count: training images.
        classes: that it could tell apart.
    """

    feature_width = 64

    def __init__(self, count: int, classes: int) -> None:
        self._count, self._classes = count, classes

    def __call__(self, augmentation: str, seed: int, view: int) -> torch.Tensor:
        """Zeros ``[N, classes]``."""
        return torch.zeros(self._count, self._classes)

    def features(self, augmentation: str, seed: int, view: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Noise ``[N, width]``, and no map."""
        return torch.randn(self._count, self.feature_width, generator=torch.Generator().manual_seed(view)), None

    def on(self, images: ImageSet) -> torch.Tensor:
        """Zeros ``[N, classes]``."""
        return torch.zeros(len(images), self._classes)
