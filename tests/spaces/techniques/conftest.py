"""What the suites on every technique share: models of all families, a context to train in, and agreement of exports."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from sousvit.machine import computes_bf16
from sousvit.objectives.runtimes.parity import check_parity
from sousvit.objectives.runtimes.runtime import open_session
from sousvit.spaces.conformance import FlatTeacher, exported, weight_bytes
from sousvit.spaces.context import Context
from sousvit.spaces.layers.quantized import has_quantized
from sousvit.spaces.recipe import Recipe


@pytest.fixture
def family_model(make_vit) -> Callable[..., nn.Module]:
    """A model of a family, wide enough for fewer bits to show in a file."""

    def make(family: str, **changes) -> nn.Module:
        return make_vit(family, embed_dim=64, num_heads=4, **changes)

    return make


@pytest.fixture
def training_context(make_context) -> Callable[..., Context]:
    """A context to train a model in: 16 images, a quarter of the epochs, and a teacher without an opinion."""

    def make(model: nn.Module, size: tuple[int, int] | None = None) -> Context:
        context = make_context(model, 48, size)
        train = context.calibration.head(16)
        return replace(context, train=train, teacher=FlatTeacher(16, 5), fidelity=0.25)

    return make


def in_agreement(model: nn.Module, recipe: Recipe, context: Context, folder: Path, bytes_fall: bool = True) -> None:
    """Export for the recipe's runtime and compare with PyTorch through the deployed session.

    Layers that are quantized in PyTorch compute the same in the runtime; others round on their own, and are only asked
    for ordinary numbers (their accuracy is measured in every trial). With ``bytes_fall``, fewer bits must show in
    the file.
    """
    artifact = exported(model, recipe, context, folder)
    images = context.normalise(context.calibration.head(8).images()).numpy()
    deploy = recipe.deploy_step
    simulated = model
    if deploy is not None:
        simulated = deploy.handler.prepare(copy.deepcopy(model), deploy.config, context)
    weights = sum(p.numel() for p in model.parameters() if p.ndim > 1)
    if bytes_fall and recipe.bytes_per_weight < 4 and not has_quantized(model) and weights > 50_000:
        found = weight_bytes(artifact)
        if found >= 4 * weights:  # below, no float file can be as small, and another export is saved
            plain = exported(model, Recipe((), recipe.runtime), context, folder.with_name("plain"))
            assert found < weight_bytes(plain), str(recipe)
    with open_session(artifact, 1) as session:
        check_parity(session, model, images, quantized=recipe.is_quantized)
        # On a CPU that computes in bf16 every layer rounds on its own where the artifact asks for it.
        in_bf16 = computes_bf16() and "bf16" in artifact.options.values()
        if has_quantized(simulated) and not in_bf16:
            with torch.no_grad():
                expected = simulated.eval()(torch.from_numpy(images))
            error = (torch.from_numpy(session.run(images)) - expected).norm() / expected.norm()
            # Where a value lies on a rounding edge, the runtimes may step to the other side.
            assert float(error) < 0.1, f"{recipe}: {float(error):.3f} from the simulated layers"
        assert session.run(images[:3]).shape == (3, 5)


@pytest.fixture
def agree(shared_graphs) -> Callable[..., None]:
    """See :func:`in_agreement`."""
    return in_agreement


def run_steps(model: nn.Module, recipe: Recipe, context: Context) -> nn.Module:
    torch.manual_seed(context.seed)
    for step in recipe.model_steps:
        model = step.handler.apply(model, step.config, context)
    return model.eval()


@pytest.fixture
def apply_recipe() -> Callable[[nn.Module, Recipe, Context], nn.Module]:
    """The model steps of a recipe, applied to a model."""
    return run_steps
