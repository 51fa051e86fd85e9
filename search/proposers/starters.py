"""Starters: recipes worth a trial before a proposer knows anything.

Every technique alone, a ladder of hybrids, and one of students that spans the sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from math import inf, log
from typing import TYPE_CHECKING

from sousvit.errors import UserError
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.shape import NetworkShape
from sousvit.spaces.technique import DeployTechnique, ModelTechnique, Role, Stage, place

if TYPE_CHECKING:
    from sousvit.spaces.shape import ModelShape
    from sousvit.spaces.space import Option, Space

#: Steps of the ladder of structural hybrids, as shares of each technique's own scale.
STRUCTURE_LEVELS = (0.0, 0.25, 0.5)
#: Steps of the ladder of students, as shares of the base's multiply-accumulates: the likeliest first.
STUDENT_SHARES = (1 / 30, 1 / 100, 1 / 10, 1 / 3)
#: Students whose costs differ by this factor at most cost about the same.
ABOUT_EQUAL = 1.15
#: A student, which has everything to learn, may be trained so many times as long as a base that was cut.
STUDENT_PATIENCE = 2.0


def single_recipes(
    space: Space, shape: ModelShape, longest: float = inf
) -> tuple[list[Recipe], list[Recipe], list[Recipe]]:
    """Every technique alone: deployments, a middle setting of each other one (with recovery), further settings.

    ``longest``, here and below: epochs of the base that the recovery of a cut base should cost at most, where the space
    has a choice.
    """
    images, head = _images(space, shape), _preparation(space, shape)

    def alone(step: Step) -> Recipe:
        """One technique and the training around it; one that trains needs no other."""
        is_student = step.handler.stage is Stage.ARCHITECTURE
        tail = _recovery(space, shape, longest * (STUDENT_PATIENCE if is_student else 1))
        steps = (*images, step) if step.role.trains else (*images, *head, step, *tail)
        return Recipe(steps, space.first_runtime(*steps))

    samples = [option.samples(shape) for option in space.options() if _compresses(option)]
    middle = [alone(steps[0]) for steps in samples if steps]
    more = [alone(step) for steps in samples for step in steps[1:]]
    return _deployed(space, images), middle, more


def deployments(space: Space) -> list[Recipe]:
    """The base in every way that the space can deploy it; as it is, where the space quantizes nothing."""
    return _deployed(space, ()) or [Recipe((), name) for name, _ in space.deploys.values()]


def _deployed(space: Space, images: Sequence[Step]) -> list[Recipe]:
    last = ((name, deploy.default_step()) for name, deploy in space.deploys.values() if deploy is not None)
    return [Recipe((*images, step), name) for name, step in last]


def hybrid_recipes(space: Space, shape: ModelShape, longest: float = inf) -> list[Recipe]:
    """Combinations that tend to work, quantized: all structure together, mild to strong, then patches, then both."""
    head, tail = (*_images(space, shape), *_preparation(space, shape)), _recovery(space, shape, longest)
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


def student_recipes(space: Space, shape: ModelShape, longest: float = inf) -> list[Recipe]:
    """Networks in the base's place, from small to nearly as large, trained and quantized."""
    head, tail = _images(space, shape), _recovery(space, shape, STUDENT_PATIENCE * longest)
    if not isinstance(shape, NetworkShape):
        return []
    options = [option for option in space.options() if option.handler.stage is Stage.ARCHITECTURE]
    found: dict[Recipe, None] = {}
    for option in options:
        costs: dict[Step, float] = {}
        for step in _networks(option, shape):
            with suppress(UserError):  # a network that does not suit the images
                costs[step] = log(_macs(step, shape) / shape.macs())
        for rank, share in enumerate(STUDENT_SHARES if costs else ()):
            off = {step: abs(cost - log(share)) for step, cost in costs.items()}
            near = [step for step in costs if off[step] <= min(off.values()) + log(ABOUT_EQUAL)]
            # Deep or wide: which of two that cost about the same learns more differs from data to data; both are seen.
            deep = (max if rank % 2 == 0 else min)(_depth(step) for step in near)
            step = min((step for step in near if _depth(step) == deep), key=off.__getitem__)
            found[_statically_quantized(space, (*head, step, *tail), shape)] = None
    return list(found)


def _networks(option: Option, shape: ModelShape) -> list[Step]:
    """Students of every size, in each depth that the space has."""
    found = []
    for step in option.settings(shape):
        kept = step.config.model_dump(mode="json")
        depths = option.values.get("depth", ())
        found += [option.step({**kept, "depth": depth}) for depth in depths] if _depth(step) and depths else [step]
    return found


def _depth(step: Step) -> int:
    return getattr(step.config, "depth", None) or 0


def _macs(step: Step, shape: NetworkShape) -> int:
    handler = step.handler
    assert isinstance(handler, ModelTechnique)
    changed: NetworkShape = handler.reshape(shape, step.config)
    return changed.macs()


def _statically_quantized(space: Space, steps: tuple[Step, ...], shape: ModelShape) -> Recipe:
    """In the first deployment with at most one byte a weight that fits, best one with ranges from images."""
    options = list(space.deploys_of(steps).values())
    for runtime, option in sorted(options, key=lambda entry: entry[1] is None or not entry[1].handler.needs.images):
        if option is not None and option.handler.bytes_per_weight(option.default_step().config) <= 1:
            recipe = Recipe((*steps, option.default_step()), runtime)
            with suppress(UserError):
                recipe.reshape(shape)
                return recipe
    return Recipe(steps, space.first_runtime(*steps))


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


def _recovery(space: Space, shape: ModelShape, longest: float) -> tuple[Step, ...]:
    """The first option's default, or a setting that costs ``longest`` epochs of the base at most."""
    option = next((option for option in space.options() if option.handler.role is Role.REPAIR), None)
    if option is None:
        return ()
    step = option.default_step(shape)
    kept = step.config.model_dump(mode="json")
    others = [option.step({**kept, name: value}) for name in option.values for value in option.values[name]]
    costs = {other: option.handler.epochs_of(other.config, 1.0) for other in (step, *others)}
    if costs[step] <= longest:
        return (step,)
    trained = sorted((other for other in costs if costs[other] > 0), key=costs.__getitem__)
    fitting = [other for other in trained if costs[other] <= longest]
    return (fitting[-1] if fitting else trained[0],)
