"""From a PyTorch model to an artifact folder: one export (ONNX, or LiteRT's own), then what the runtime opens."""

from __future__ import annotations

import copy
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from sousvit.errors import TrialError, UserError, one_line
from sousvit.files import disk_errors_as_user_errors
from sousvit.spaces.export.artifact import Artifact
from sousvit.spaces.export.onnx import Shape, export_onnx, quiet
from sousvit.spaces.export.openvino import read_openvino, save_openvino
from sousvit.spaces.technique import DeployTechnique

if TYPE_CHECKING:
    from sousvit.spaces.context import Context
    from sousvit.spaces.recipe import Step


def make_artifact(
    model: nn.Module,
    input_shape: Shape,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    runtime: str,
    deploy_step: Step | None,
    context: Context,
    folder: Path,
) -> Artifact:
    """Export ``model`` for ``runtime`` into ``folder``, which appears whole or not at all.

    Args:
        model: in eval mode on the CPU.
        input_shape: ``(1, C, H, W)``.
        mean: per channel, of pixels in [0, 1]; stored with the artifact.
        std: likewise.
        runtime: ``onnxruntime``, ``openvino``, ``litert`` or ``torch``.
        deploy_step: the recipe's deploy step; None writes plain fp32.
        context: its calibration images serve the deploy step.
        folder: replaced if it exists.

    Raises:
        TrialError: the export or the deploy step failed on this model.
        MissingPackageError: the runtime's package is not installed.
        UserError: the disk does not take the files.
    """
    with disk_errors_as_user_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            out = work / "artifact"
            out.mkdir()
            artifact = _fill(model, input_shape, runtime, deploy_step, context, work, out)
            replace(artifact, folder=out, input_shape=input_shape, mean=tuple(mean), std=tuple(std)).save()
            if folder.exists():
                folder.rename(work / "replaced")
            out.rename(folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return Artifact.open(folder)


def _fill(
    model: nn.Module, shape: Shape, runtime: str, deploy_step: Step | None, context: Context, work: Path, out: Path
) -> Artifact:
    if runtime == "torch":
        if deploy_step is not None:
            raise UserError("the torch runtime has no deploy steps", deploy_step, "choose another runtime")
        return _save_torch(model, shape, out)
    if deploy_step is not None:
        handler = deploy_step.handler
        assert isinstance(handler, DeployTechnique)
        prepared = handler.prepare(copy.deepcopy(model), deploy_step.config, context)
        return handler.deploy(_graph(prepared, shape, runtime, work), runtime, deploy_step.config, context, out)
    if runtime == "openvino":
        save_openvino(read_openvino(export_onnx(model, shape, work)), out)
        return Artifact(out, runtime, "model.xml")
    return Artifact(out, runtime, _graph(model, shape, runtime, out).name)


def _graph(model: nn.Module, shape: Shape, runtime: str, folder: Path) -> Path:
    """The float32 file that deploy steps begin with."""
    from sousvit.spaces.export.litert import export_litert

    return (export_litert if runtime == "litert" else export_onnx)(model, shape, folder)


def _save_torch(model: nn.Module, shape: Shape, out: Path) -> Artifact:
    batch = torch.export.Dim("batch", min=1, max=65535)
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(model.eval(), (torch.zeros(2, *shape[1:]),), dynamic_shapes=({0: batch},))
            torch.export.save(program, out / "model.pt2")
    except Exception as error:  # as for ONNX
        raise TrialError(f"torch.export failed: {one_line(error)}") from error
    return Artifact(out, "torch", "model.pt2")
