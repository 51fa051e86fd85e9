"""The builder of models from recipes: model steps run in order, and models that were costly to make are stored.

A model is stored by content (base, images, steps so far, fidelity, seed) when training or more than a second of work
went into it, so recipes that begin alike share their beginning: with ``prune_mlp, distill`` trained once, a recipe
that adds int8 to it trains nothing. Reading one back builds the skeleton (the same steps without data) and loads the
stored weights strictly; an entry that is damaged or does not fit is built again.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from sousvit.cache import TensorCache
from sousvit.errors import TrialError, UserError
from sousvit.files import content_hash
from sousvit.models.load import LoadedModel
from sousvit.spaces.calibration.kept import KeptStatistics
from sousvit.spaces.calibration.stream import check_deadline
from sousvit.spaces.context import Context
from sousvit.spaces.module_shape import macs_of
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.technique import ModelTechnique, Role, Stage
from sousvit.spaces.techniques.elastic.elastic import order
from sousvit.spaces.techniques.elastic.subnetwork import SubNetwork
from sousvit.spaces.training.checkpoint import Checkpoint

#: Seconds of work from which a model is stored.
WORTH_KEEPING = 1.0
DECISIONS = "decisions"


def apply_steps(model: nn.Module, recipe: Recipe, context: Context) -> nn.Module:
    """A copy of ``model`` after the model steps of ``recipe``, in eval mode.

    Raises:
        UserError: a step does not fit the model.
        TrialError: a step failed, or left weights that are not finite.
    """
    model = copy.deepcopy(model)
    for place, step in enumerate(recipe.model_steps):
        model = _apply(model, step, place, context)
    return _finished(model)


def _apply(model: nn.Module, step: Step, place: int, context: Context) -> nn.Module:
    """``model`` after one step, which has a seed of its own: earlier steps may have run, or been read back."""
    torch.manual_seed(context.seed + place)
    handler = step.handler
    assert isinstance(handler, ModelTechnique)
    if context.progress is not None:
        context.progress(step.technique, 0, 0)
    begun = time.monotonic()
    model = handler.apply(model, step.config, context)
    for parameter in model.parameters():
        # As when read back from the cache: strides change the last digits of sums.
        parameter.data = parameter.data.contiguous()
    if context.seconds is not None:
        part = "prepare" if step.role is Role.PREPARE else "recover" if step.role.trains else "build"
        context.seconds[part] = context.seconds.get(part, 0.0) + time.monotonic() - begun
    return model


def _finished(model: nn.Module) -> nn.Module:
    if not all(bool(torch.isfinite(value).all()) for value in model.state_dict().values() if value.is_floating_point()):
        raise TrialError("the compressed model has weights that are not finite")
    return model.eval()


def skeleton(base: LoadedModel, recipe: Recipe, decisions: dict[str, Any] | None = None) -> nn.Module:
    """The untrained structure of a recipe: the right shapes, built without data.

    Args:
        decisions: widths and ranks chosen from data (see :class:`Context`); without them all blocks are alike.
    """
    shape = (base.channels, *base.size)
    return apply_steps(base.module, recipe, Context(base.normalise, decisions=decisions or {}, input_shape=shape))


def rebuilt(
    base: LoadedModel, steps: Sequence[Step], decisions: dict[str, Any], tensors: dict[str, torch.Tensor]
) -> nn.Module:
    """The model that steps made of the base, from its weights alone.

    Args:
        steps: model steps, without those that only supply images.
        decisions: that the build took from data.

    Raises:
        UserError, TrialError, RuntimeError: the weights are of another model.
    """
    model = skeleton(base, Recipe(tuple(steps)), decisions)
    model.load_state_dict(tensors)
    return model


def changing_steps(recipe: Recipe) -> tuple[Step, ...]:
    """The model steps of a recipe that change the model: those that supply images are left out."""
    return tuple(step for step in recipe.model_steps if step.role is not Role.SUPPLY)


def _cuts(steps: Sequence[Step]) -> int:
    """Number of steps that cut the base which a first step, such as ``elastic``, prepares; 0 without such a step."""
    if steps[0].role is not Role.PREPARE:
        return 0
    return sum(step.handler.stage < Stage.RECOVERY for step in steps[1:])


class ModelBuilder:
    """A builder of compressed models that stores the costly ones.

    Args:
        base: the loaded base model.
        context: data, teacher and seed; its fidelity is set per call.
        cache: where models are stored, or None.
    """

    def __init__(self, base: LoadedModel, context: Context, cache: TensorCache | None = None) -> None:
        kept = None if cache is None else KeptStatistics(cache)
        self._base, self._context, self._cache = base, replace(context, statistics=kept), cache

    def build(
        self,
        recipe: Recipe,
        fidelity: float = 1.0,
        deadline: float | None = None,
        seconds: dict[str, float] | None = None,
        decisions: dict[str, Any] | None = None,
    ) -> nn.Module:
        """The compressed model before quantization; trained at ``fidelity`` when the recipe trains.

        At fidelity 0 recovery is left out. ``seconds`` is filled as :attr:`Context.seconds`, ``decisions`` with what
        :func:`rebuilt` needs.
        """
        steps, context = self._plan(recipe, fidelity)
        chosen = {} if decisions is None else decisions
        context = replace(context, deadline=deadline, seconds=seconds, decisions=chosen)
        done, model = self._longest_beginning(steps, context)
        if done == 0 and self._cache is not None and steps and steps[0].role is Role.PREPARE:
            done, model = self._prepared(self._cache, steps, context)
        return self._carried_on(model, steps, done, context)

    def has(self, recipe: Recipe, fidelity: float = 1.0) -> bool:
        """Whether its model is stored, so that building it trains nothing."""
        steps, context = self._plan(recipe, fidelity)
        return self._cache is not None and (not steps or self._cache.has(self._key(steps, context)))

    def _plan(self, recipe: Recipe, fidelity: float) -> tuple[tuple[Step, ...], Context]:
        """The steps that change the model at a fidelity, and their context."""
        context = replace(self.context_of(recipe), start=recipe.start, base_macs=self._base_macs, decisions={})
        steps = tuple(step for step in changing_steps(recipe) if fidelity > 0 or step.role is not Role.REPAIR)
        return steps, replace(context, fidelity=fidelity)

    @cached_property
    def _base_macs(self) -> int:
        return macs_of(self._base.module, (self._base.channels, *self._base.size))

    def _prepared(self, cache: TensorCache, steps: Sequence[Step], context: Context) -> tuple[int, nn.Module]:
        """Like :meth:`_longest_beginning`, but a missing prepared base, which recipes share, is made by one process."""
        with cache.claim(self._key(steps[:1], context), lambda: check_deadline(context, "waiting for the base")):
            done, model = self._longest_beginning(steps, context)
            return (done, model) if done else (1, self._carried_on(model, steps[:1], 0, context))

    def _carried_on(self, model: nn.Module, steps: Sequence[Step], done: int, context: Context) -> nn.Module:
        """``model`` after the steps that are not ``done`` yet; costly models are stored on the way."""
        begun = time.monotonic()
        while done < len(steps):
            if done == 1 and _cuts(steps):
                done, model = 1 + _cuts(steps), self._cut(model, steps[1 : 1 + _cuts(steps)], context)
                is_costly = False
            else:
                model = self._stepped(model, steps[: done + 1], context)
                is_costly = steps[done].role.trains or steps[done].role is Role.PREPARE
                done += 1
            if is_costly or time.monotonic() - begun > WORTH_KEEPING:
                self._keep(steps[:done], _finished(model), context)
                begun = time.monotonic()
        return _finished(model)

    def _stepped(self, model: nn.Module, steps: Sequence[Step], context: Context) -> nn.Module:
        """``model`` after the last of ``steps``."""
        if self._cache is None:
            return _apply(model, steps[-1], len(steps) - 1, context)
        checkpoint = Checkpoint(self._cache, f"{self._key(steps, context)}-training")
        model = _apply(model, steps[-1], len(steps) - 1, replace(context, checkpoint=checkpoint))
        checkpoint.drop()
        return model

    def _cut(self, whole: nn.Module, steps: Sequence[Step], context: Context) -> nn.Module:
        """The part of a prepared base that structural steps leave."""
        for step in steps:
            if step.handler.nested(step.config) is None:
                rule = "a prepared base is cut by steps that keep its first units"
                raise UserError(rule, str(step), "take the step that prepares the base out of the recipe")
        begun = time.monotonic()
        ordered = copy.deepcopy(self._base.module)
        order(ordered, context)
        part = SubNetwork(whole, ordered, steps, context).model()
        if context.seconds is not None:
            context.seconds["build"] = context.seconds.get("build", 0.0) + time.monotonic() - begun
        return part

    def context_of(self, recipe: Recipe) -> Context:
        """The context of a recipe's steps: with images of its own where it has a step ``synthesize``."""
        context = self._context
        for step in recipe.model_steps:
            assert isinstance(step.handler, ModelTechnique)
            context = step.handler.surroundings(step.config, context)
        return context

    def _longest_beginning(self, steps: Sequence[Step], context: Context) -> tuple[int, nn.Module]:
        """Number of steps that a stored model has behind it, and that model; 0 and a copy of the base without one."""
        for count in range(len(steps), 0, -1):
            stored = None if self._cache is None else self._read(steps[:count], context)
            if stored is not None:
                return count, stored
        return 0, copy.deepcopy(self._base.module)

    def _keep(self, steps: Sequence[Step], model: nn.Module, context: Context) -> None:
        if self._cache is not None:
            self._cache.write(self._key(steps, context), model.state_dict(), {DECISIONS: context.decisions})

    def _key(self, steps: Sequence[Step], context: Context) -> str:
        fidelity = context.fidelity if any(step.role.trains for step in steps) else None
        images = (None if part is None else part.fingerprint for part in (context.train, context.calibration))
        origin = (self._base.fingerprint, *images, context.seed)
        return "models/" + content_hash(*origin, [step.to_dict() for step in steps], fidelity)

    def _read(self, steps: Sequence[Step], context: Context) -> nn.Module | None:
        assert self._cache is not None
        key = self._key(steps, context)
        found = self._cache.read(key)
        if found is None:
            return None
        tensors, notes = found
        try:
            model = rebuilt(self._base, steps, notes[DECISIONS], tensors)
        except (UserError, TrialError, RuntimeError, KeyError):
            self._cache.forget(key)
            return None
        context.decisions.update(notes[DECISIONS])
        return model
