"""Starters: recipes worth a trial before a proposer knows anything: every technique alone, and a ladder of hybrids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.technique import DeployTechnique, ModelTechnique, Role, Stage, place

if TYPE_CHECKING:
    from sousvit.spaces.shape import ModelShape
    from sousvit.spaces.space import Option, Space

#: Steps of the ladder of structural hybrids, as shares of each technique's own scale.
STRUCTURE_LEVELS = (0.0, 0.25, 0.5)


def single_recipes(space: Space, shape: ModelShape) -> tuple[list[Recipe], list[Recipe], list[Recipe]]:
    """Every technique alone: deployments, a middle setting of each other one (with recovery), further settings."""
    images, head, tail = _images(space, shape), _preparation(space, shape), _recovery(space, shape)

    def alone(step: Step) -> Recipe:
        """One technique and the training around it; one that trains needs no other."""
        steps = (*images, step) if step.role.trains else (*images, *head, step, *tail)
        return Recipe(steps, space.first_runtime(*steps))

    samples = [option.samples(shape) for option in space.options() if _compresses(option)]
    middle = [alone(steps[0]) for steps in samples if steps]
    more = [alone(step) for steps in samples for step in steps[1:]]
    last = ((name, deploy.default_step()) for name, deploy in space.deploys.values() if deploy is not None)
    return [Recipe((*images, step), name) for name, step in last], middle, more


def hybrid_recipes(space: Space, shape: ModelShape) -> list[Recipe]:
    """Combinations that tend to work, quantized: all structure together, mild to strong, then patches, then both."""
    head, tail = (*_images(space, shape), *_preparation(space, shape)), _recovery(space, shape)
    runtime, last = _quantized(space, tail)
    ladder = [({Stage.STRUCTURE}, level) for level in STRUCTURE_LEVELS]
    found = []
    for stages, level in [*ladder, ({Stage.INPUT}, 0.0), ({Stage.INPUT, Stage.STRUCTURE}, 0.0)]:
        usable = [[o for o in group if _compresses(o) and o.handler.stage in stages] for group in space.groups]
        chosen = [group[0].at_level(level, shape) for group in usable if group]  # one of those that exclude each other
        steps = sorted((step for step in chosen if step is not None), key=lambda step: place(step.handler))
        if steps:
            found.append(Recipe((*head, *steps, *tail, *last), runtime))
    return found


def _quantized(space: Space, recovery: tuple[Step, ...]) -> tuple[str, tuple[Step, ...]]:
    """The first deployment after ``recovery`` with at most one byte a weight, otherwise the first plain one."""
    for runtime, option in space.deploys_of(recovery).values():
        if option is not None and isinstance(option.handler, DeployTechnique):
            step = option.default_step()
            if option.handler.bytes_per_weight(step.config) <= 1:
                return runtime, (step,)
    return space.first_runtime(*recovery), ()


def _compresses(option: Option) -> bool:
    return isinstance(option.handler, ModelTechnique) and option.handler.role.compresses


def _images(space: Space, shape: ModelShape) -> tuple[Step, ...]:
    """The step that makes images, in a space without data; canonical recipes that look at no image drop it."""
    return tuple(option.default_step(shape) for option in space.options() if option.handler.role is Role.SUPPLY)


def _preparation(space: Space, shape: ModelShape) -> tuple[Step, ...]:
    """The step that prepares the base, if there is one; canonical recipes drop it where it does not help."""
    return tuple(option.default_step(shape) for option in space.options() if option.handler.role is Role.PREPARE)[:1]


def _recovery(space: Space, shape: ModelShape) -> tuple[Step, ...]:
    return tuple(option.default_step(shape) for option in space.options() if option.handler.role is Role.REPAIR)[:1]
