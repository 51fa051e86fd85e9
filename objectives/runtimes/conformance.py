"""The conformance suite that every runtime must pass with its exporter, ours in our tests and a user's in theirs.

sousvit.check_runtime(Reference)
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sousvit.errors import MissingPackageError, TrialError
from sousvit.objectives.runtimes.parity import check_parity
from sousvit.objectives.runtimes.runtime import RUNTIMES, Runtime, open_session
from sousvit.registry import on_trial
from sousvit.spaces.conformance import exported, middle_step, tiny_context, tiny_vit
from sousvit.spaces.export.artifact import Artifact
from sousvit.spaces.export.exporter import EXPORTERS
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.technique import DeployTechnique, get_technique

if TYPE_CHECKING:
    from torch import nn

#: Images that are run together.
BATCH = 5


def check_runtime(runtime: type[Runtime] | Runtime) -> None:
    """Hold a runtime and its exporter to the contract, on a tiny Vision Transformer with random weights.

    Args:
        runtime: a class or an instance, its packages installed; it need not be registered.

    Raises:
        AssertionError: says which rule is broken.
        MissingPackageError: a package of it is not installed.
    """
    with on_trial(runtime, RUNTIMES, EXPORTERS) as held, tempfile.TemporaryDirectory() as folder:
        model = tiny_vit(2)
        with _must(held.name, "its exporter must export a plain Vision Transformer"):
            artifact = exported(model, Recipe((), held.name), tiny_context(), Path(folder) / "plain")
        check_sessions(held, artifact, model)
        _check_deployments(held, model, Path(folder))


def check_sessions(runtime: Runtime, artifact: Artifact, model: nn.Module) -> None:
    """What a registered runtime makes of ``artifact``, exported from ``model`` in float32, and of what it must refuse.

    Raises:
        AssertionError: says which rule is broken.
        MissingPackageError: a package of the runtime is not installed.
    """
    name, version = runtime.name, runtime.version()
    assert isinstance(version, str) and version, f"{name}: version must be a text, not {version!r}"
    images = np.random.default_rng(0).standard_normal((BATCH, *artifact.input_shape[1:]), dtype=np.float32)
    with _must(name, "it must run what its exporter wrote, and agree with PyTorch"):
        single = _check_one_by_one(artifact, model, images)
        if runtime.batches:
            _check_batches(artifact, model, images, single)
    with open_session(artifact, 1, batch=1) as session:
        refuses(f"{name}: run of images of another size", lambda: session.run(images[:1, :, 1:, 1:]))
    with tempfile.TemporaryDirectory() as folder:
        broken = replace(artifact, folder=Path(folder))
        broken.path.write_bytes(b"nothing")
        refuses(f"{name}: open of a file that is no model", lambda: runtime.open(broken, 1))


def _check_one_by_one(artifact: Artifact, model: nn.Module, images: np.ndarray) -> np.ndarray:
    """Predictions ``[B, classes]`` of a session that is told that single images come."""
    name = artifact.runtime
    with open_session(artifact, 1, batch=1) as session:
        check_parity(session, model, images[:1], quantized=False)
        first = session.run(images[:1])
        assert first.dtype == np.float32, f"{name}: run must return float32, not {first.dtype}"
        kept = first.copy()
        others = [session.run(image[None]) for image in images[1:]]
        assert np.array_equal(first, kept), f"{name}: run must leave earlier predictions as they are"
        assert np.array_equal(session.run(images[:1]), kept), f"{name}: the same image must give the same predictions"
    return np.concatenate([kept, *others])


def _check_batches(artifact: Artifact, model: nn.Module, images: np.ndarray, single: np.ndarray) -> None:
    with open_session(artifact, 2) as session:
        check_parity(session, model, images, quantized=False)
        found = [session.run(images), *session.run_all([images[:2], images[2:]])]
    name = artifact.runtime
    for predictions in (found[0], np.concatenate(found[1:])):
        alike = predictions.shape == single.shape and np.allclose(predictions, single, rtol=1e-3, atol=1e-3)
        assert alike, f"{name}: a batch must give what its images give one by one (or say batches = False)"


def _check_deployments(runtime: Runtime, model: nn.Module, folder: Path) -> None:
    """Every deployment that the exporter adds, and whose packages are there, makes an artifact that runs."""
    for technique in EXPORTERS.get(runtime.name).deployments:
        handler, name = get_technique(technique), f"{runtime.name}: deployments: {technique}"
        assert isinstance(handler, DeployTechnique), f"{name}: no deployment technique"
        assert handler.suits(runtime.name), f"{name}: it must be a function, or name a runtime that it suits"
        recipe = Recipe((middle_step(handler, vit_shape(model)),), runtime.name)
        with _must(name, "it must make an artifact that runs"), suppress(MissingPackageError):
            artifact = exported(model, recipe, tiny_context(), folder / technique)
            with open_session(artifact, 1, batch=1) as session:
                images = np.random.default_rng(0).standard_normal(artifact.input_shape, dtype=np.float32)
                check_parity(session, model, images, quantized=True)


@contextmanager
def _must(name: str, rule: str) -> Iterator[None]:
    """A trial that fails in here breaks ``rule``."""
    try:
        yield
    except TrialError as error:
        raise AssertionError(f"{name}: {rule}: {error}") from error


def refuses(what: str, act: Callable[[], object]) -> None:
    """Hold what cannot work to a TrialError of one line: any other error would end the search.

    Raises:
        AssertionError: it does something else.
    """
    try:
        act()
    except TrialError as error:
        assert "\n" not in str(error), f"{what} must raise a TrialError of one line, not {str(error)!r}"
    except Exception as error:
        raise AssertionError(f"{what} must raise TrialError, not {type(error).__name__}: {error}") from error
    else:
        raise AssertionError(f"{what} must raise TrialError")
