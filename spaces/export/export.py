"""Export of a PyTorch model to an artifact folder, by the runtime's exporter and a deployment step if there is one."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sousvit.errors import SharedInputError
from sousvit.faults import ROOM, faults_told
from sousvit.files import disk_errors_as_user_errors
from sousvit.spaces.export.artifact import Artifact
from sousvit.spaces.export.exporter import Shape, as_exported, get_exporter
from sousvit.spaces.technique import DeployTechnique

if TYPE_CHECKING:
    from torch import nn

    from sousvit.spaces.context import Context
    from sousvit.spaces.recipe import Step


#: Times that a model's weights may lie on the disk at once while it is exported: the graph, a tool's own copies of it,
#: and the result.
MOST_COPIES = 4


def make_artifact(
    model: nn.Module,
    input_shape: Shape,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    runtime: str,
    deploy_step: Step | None,
    context: Context,
    folder: Path,
    preprocess: Mapping[str, Any] | None = None,
) -> Artifact:
    """Export ``model`` for ``runtime`` into ``folder``, which appears whole or not at all.

    Args:
        model: in eval mode on the CPU.
        input_shape: ``(1, C, H, W)``.
        mean: per channel, of pixels in [0, 1]; stored with the artifact.
        std: likewise.
        runtime: whose exporter writes the files.
        deploy_step: the recipe's deploy step; None writes plain fp32.
        context: its calibration images serve the deploy step.
        folder: replaced if it exists.
        preprocess: how images get the input's shape (:attr:`.Preprocess.steps`); stored with the artifact.

    Raises:
        TrialError: the export or the deploy step failed on this model.
        MissingPackageError: the runtime's package is not installed.
        UserError: the disk does not take the files, or the runtime is unknown or does not suit the deploy step.
    """
    with disk_errors_as_user_errors(folder), faults_told(folder.parent, room=_room(model)):
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            out = work / "artifact"
            out.mkdir()
            artifact = _fill(model, input_shape, runtime, deploy_step, context, work, out)
            _require_whole(artifact)
            how = dict(preprocess or {})
            artifact = replace(artifact, input_shape=input_shape, mean=tuple(mean), std=tuple(std), preprocess=how)
            replace(artifact, folder=out).save()
            if folder.exists():
                folder.rename(work / "replaced")
            out.rename(folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return Artifact.open(folder)


def _room(model: nn.Module) -> int:
    """Bytes that the files of one export may take."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return max(ROOM, MOST_COPIES * weights)


def _require_whole(artifact: Artifact) -> None:
    """Some tools write on when the disk takes no more, and tell nobody.

    Raises:
        SharedInputError: a file was cut.
    """
    for file in artifact.shipped_files:
        with file.open("rb+") as stream:
            os.fsync(stream.fileno())  # file systems that write late tell now what they could not
    if artifact.path.is_file() and not get_exporter(artifact.runtime).is_whole(artifact.path):
        action = "free some space and run the same command again to resume"
        raise SharedInputError("the disk must take whole files", f"a cut {artifact.path.name}", action)


def _fill(
    model: nn.Module, shape: Shape, runtime: str, deploy_step: Step | None, context: Context, work: Path, out: Path
) -> Artifact:
    exporter = get_exporter(runtime)
    if deploy_step is None:
        return as_exported(exporter.graph(model, shape, work), runtime, None, context, out)
    handler = deploy_step.handler
    assert isinstance(handler, DeployTechnique)
    prepared = handler.prepare(copy.deepcopy(model), deploy_step.config, context)
    return handler.deploy(exporter.graph(prepared, shape, work), runtime, deploy_step.config, context, out)
