"""From a recipe to a model: runs the model steps in order, and keeps what training paid for.

A recovered model is stored by content (base, data, steps, fidelity, seed). Reading it back rebuilds the
skeleton (the same steps without data) and loads the weights strictly; a damaged entry is built again.
"""

from __future__ import annotations

import copy
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from sousvit.common.errors import TrialError, UserError
from sousvit.common.files import content_hash, write_atomic
from sousvit.common.model import LoadedModel, load_weights
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.technique import Context, ModelTechnique

#: Key of the file's metadata.
DECISIONS = "decisions"


def apply_steps(model: nn.Module, recipe: Recipe, context: Context) -> nn.Module:
    """A changed copy of ``model``, in eval mode.

    Raises:
        UserError: a step does not fit the model.
        TrialError: a step failed, or left weights that are not finite.
    """
    torch.manual_seed(context.seed)
    model = copy.deepcopy(model)
    for step in recipe.model_steps:
        handler = step.handler
        assert isinstance(handler, ModelTechnique)
        if context.progress is not None:
            context.progress(step.technique, 0, 0)
        begun = time.monotonic()
        model = handler.apply(model, step.config, context)
        if context.seconds is not None:
            part = "recover" if handler.trains else "build"
            context.seconds[part] = context.seconds.get(part, 0.0) + time.monotonic() - begun
    if not all(bool(torch.isfinite(value).all()) for value in model.state_dict().values() if value.is_floating_point()):
        raise TrialError("the compressed model has weights that are not finite")
    return model.eval()


def skeleton(base: LoadedModel, recipe: Recipe, decisions: dict[str, Any] | None = None) -> nn.Module:
    """The untrained structure of a recipe: right shapes, no data touched.

    Args:
        decisions: of a model that was built from data (see :class:`Context`); without them, every block alike.
    """
    return apply_steps(base.module, recipe, Context(base.normalise, decisions=decisions or {}))


class ModelBuilder:
    """Builds compressed models and remembers the trained ones.

    Args:
        base: the loaded base model.
        context: data, teacher and seed; its fidelity is set per call.
        folder: where recovered weights are kept, or None.
    """

    def __init__(self, base: LoadedModel, context: Context, folder: Path | None = None) -> None:
        self._base, self._context, self._folder = base, context, folder
        train = context.train.fingerprint if context.train is not None else ""
        calibration = context.calibration.fingerprint if context.calibration is not None else ""
        self._origin = (base.fingerprint, train, calibration, context.seed)

    def build(
        self,
        recipe: Recipe,
        fidelity: float = 1.0,
        deadline: float | None = None,
        seconds: dict[str, float] | None = None,
    ) -> nn.Module:
        """The compressed model before quantization; trained at ``fidelity`` when the recipe trains.

        ``seconds`` is filled as :attr:`Context.seconds`.
        """
        context = replace(self._context, fidelity=fidelity, deadline=deadline, seconds=seconds, decisions={})
        if self._folder is None or not recipe.trains:
            return apply_steps(self._base.module, recipe, context)
        path = self._folder / f"{self._key(recipe, fidelity)}.safetensors"
        stored = self._read(path, recipe)
        if stored is not None:
            return stored
        model = apply_steps(self._base.module, recipe, context)
        tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
        write_atomic(path, save(tensors, metadata={DECISIONS: json.dumps(context.decisions)}))
        return model

    def _key(self, recipe: Recipe, fidelity: float) -> str:
        return content_hash(*self._origin, [step.to_dict() for step in recipe.model_steps], fidelity)

    def _read(self, path: Path, recipe: Recipe) -> nn.Module | None:
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as stored:
                decisions = json.loads((stored.metadata() or {}).get(DECISIONS, "{}"))
            model = skeleton(self._base, recipe, decisions)
            load_weights(model, path)
        except (UserError, TrialError, SafetensorError, ValueError, OSError):
            path.unlink(missing_ok=True)
            return None
        return model
