"""A recipe: the runtime and the ordered, checked list of technique settings. A pure value, YAML and JSON both ways."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import yaml

from sousvit.checked import parse_yaml, validated
from sousvit.errors import UserError
from sousvit.files import content_hash
from sousvit.registry import Registry
from sousvit.spaces.context import Start
from sousvit.spaces.export.exporter import get_exporter
from sousvit.spaces.needs import Needs
from sousvit.spaces.shape import ModelShape
from sousvit.spaces.technique import (
    DeployTechnique,
    ModelTechnique,
    Role,
    Stage,
    StepConfig,
    Technique,
    get_technique,
    require_suits,
)

#: Types of values that are told apart by value and type alone.
_PLAIN = frozenset({bool, int, float, str, type(None)})
#: Recipes that are no list of techniques, by the name of the only step in their plain form: rows of a recorded table.
RECIPE_KINDS: Registry[type[Recipe]] = Registry("kind of recipe", None, classes=True)


@dataclass(frozen=True)
class Step:
    """One technique with its parameters."""

    technique: str
    config: StepConfig

    @classmethod
    def make(cls, technique: str, /, **parameters: Any) -> Step:
        """Check ``parameters`` against the technique's own schema.

        Raises:
            UserError: unknown technique or wrong parameters.
        """
        handler = get_technique(technique)
        if not all(type(value) in _PLAIN for value in parameters.values()):
            return cls(technique, validated(handler.config, parameters, f"technique {technique}"))
        return _made(handler, technique, tuple(parameters.items()), tuple(map(type, parameters.values())))

    @property
    def handler(self) -> Technique:
        """The technique itself."""
        return get_technique(self.technique)

    @property
    def role(self) -> Role:
        """What it is there for."""
        return self.handler.role

    def to_dict(self) -> dict[str, Any]:
        """Plain values, every parameter written out."""
        return {"technique": self.technique, **self.config.model_dump(mode="json")}

    def __str__(self) -> str:
        parameters = ", ".join(f"{key}={_short(value)}" for key, value in self.config.model_dump(mode="json").items())
        return f"{self.technique}({parameters})"


@dataclass(frozen=True, init=False)
class Recipe:
    """Steps in order, and the runtime that the artifact is made for.

    For instance ``Recipe([PruneMlp(keep=0.5), Distill(), Int8Dynamic()])``, with the steps of
    :mod:`sousvit.techniques`, or ``Recipe([Step.make("prune_mlp", keep=0.5)], runtime="openvino")``.

    Raises:
        UnknownNameError: there is no such runtime.
        UserError: a technique twice, conflicting techniques, a step before an earlier stage, two deploy
            steps, or a step that does not exist for the runtime.
    """

    steps: tuple[Step, ...]
    runtime: str

    def __init__(self, steps: Iterable[Step] = (), runtime: str = "onnxruntime") -> None:
        object.__setattr__(self, "steps", tuple(steps))
        object.__setattr__(self, "runtime", runtime)
        self._check()

    def _check(self) -> None:
        get_exporter(self.runtime)
        for step in self.steps:
            if not isinstance(step, Step):
                rule = "a recipe's steps are techniques with their parameters"
                raise UserError(rule, repr(step), "write for instance PruneMlp(keep=0.5)")
        handlers = tuple(step.handler for step in self.steps)
        for step, handler in zip(self.steps, handlers, strict=True):
            if not isinstance(step.config, handler.config):
                rule = f"a step of {step.technique} holds {step.technique}'s parameters"
                raise UserError(rule, repr(step.config), f"write Step.make({step.technique!r}, ...)")
        _require_order(handlers, tuple(step.technique for step in self.steps), self.runtime)

    @property
    def model_steps(self) -> tuple[Step, ...]:
        """The steps that change the PyTorch model."""
        return tuple(step for step in self.steps if isinstance(step.handler, ModelTechnique))

    @property
    def deploy_step(self) -> Step | None:
        """The step that decides the artifact's numbers, if any (otherwise plain fp32)."""
        return next((step for step in self.steps if step.handler.stage is Stage.DEPLOY), None)

    @property
    def deployment(self) -> str:
        """How the model is deployed, whatever the settings: ``openvino``, or ``openvino:ptq_int8``."""
        last = self.steps[-1] if self.steps else None
        named = last is not None and isinstance(last.handler, DeployTechnique)
        return f"{self.runtime}:{last.technique}" if last is not None and named else self.runtime

    def epochs(self, share: float) -> float:
        """Epochs of training, all steps together, of a model that costs ``share`` of the MACs of the base."""
        return sum(step.handler.epochs_of(step.config, share) for step in self.steps)

    @cached_property
    def trains(self) -> bool:
        """Whether some step updates weights by gradient."""
        return any(step.role.trains for step in self.steps)

    @cached_property
    def start(self) -> Start:
        """What the model's weights are before training."""
        starts = (step.handler.start_of(step.config) for step in self.steps)
        return next((start for start in starts if start is not Start.BASE), Start.BASE)

    @property
    def family(self) -> str:
        """The kind of network that takes the base's place; "" where that stays."""
        return next((found for step in self.steps if (found := step.handler.family_of(step.config))), "")

    @property
    def is_prepared(self) -> bool:
        """Whether it begins with a base trained for all such recipes, so that untrained cuts tell something."""
        return any(step.role is Role.PREPARE for step in self.steps)

    @property
    def is_repaired(self) -> bool:
        """Whether its model is worth judging before its recovery: the base, changed by steps that need no training."""
        changing = [step for step in self.model_steps if step.role not in (Role.REPAIR, Role.SUPPLY)]
        return bool(changing) and all(step.handler.tells_untrained for step in changing)

    def structure(self) -> Recipe:
        """The recipe without training and its images: what latency, memory, MACs and size depend on."""
        return replace(self, steps=tuple(step for step in self.steps if step.role.changes_structure))

    def without(self, *techniques: str) -> Recipe:
        """The recipe with steps left out."""
        return replace(self, steps=tuple(step for step in self.steps if step.technique not in techniques))

    def unrecovered(self) -> Recipe:
        """The recipe without its recovery training."""
        return replace(self, steps=tuple(step for step in self.steps if step.role is not Role.REPAIR))

    def canonical(self, shape: ModelShape) -> Recipe:
        """Steps that change nothing dropped, parameters that do nothing at their defaults.

        Equal behaviour gives equal recipes. Training stays only where something was changed that needs it, a
        prepared base only where every change can be cut from it, and images only where a step looks at them.
        """
        steps = self._steps_that_act(shape)
        if not any(step.role is Role.PREPARE for step in steps):
            return replace(self, steps=tuple(steps))
        prepared = _on_prepared(steps)
        if prepared is not None:
            return replace(self, steps=prepared)
        return self.without(*(step.technique for step in steps if step.role is Role.PREPARE)).canonical(shape)

    def _steps_that_act(self, shape: ModelShape) -> list[Step]:
        kept: list[Step] = []
        current: ModelShape = shape
        for step in self.steps:
            handler, acting = step.handler, _acting(current, step)
            if acting is None:
                continue
            if step.role is Role.REPAIR and all(other.role in (Role.PREPARE, Role.SUPPLY) for other in kept):
                continue
            kept.append(acting)
            if isinstance(handler, ModelTechnique):
                current = _reshaped(current, step)
        if not any(step.handler.needs.images for step in kept):
            kept = [step for step in kept if step.role is not Role.SUPPLY]
        return kept

    def reshape(self, shape: ModelShape) -> ModelShape:
        """The shape of the compressed model.

        Raises:
            UserError: a step's parameters or needs do not fit, or nothing trains a student.
        """
        if self.start is not Start.BASE and not self.trains:
            rule = "a student must be trained"
            raise UserError(rule, str(self), "add a recovery, such as distill")
        current, by_data = shape, False
        for step in self.steps:
            current, by_data = _taken(current, by_data, step)
        last = self.steps[-1].handler if self.steps else None
        if isinstance(last, DeployTechnique) and self.runtime in last.linear_only:
            reason = Needs(plain_vit=False, linear=True).misfit(current)
            if reason is not None:
                rule = f"{last.name} acts on linear layers in {self.runtime}"
                raise UserError(rule, reason, "leave the technique out")
        return current

    def fitting(self, shape: ModelShape) -> Recipe:
        """The recipe without the steps that do not fit the model in their place, or a student that nothing trains."""
        kept: list[Step] = []
        current, by_data = shape, False
        for step in self.steps:
            try:
                current, by_data = _taken(current, by_data, step)
            except UserError:
                continue
            kept.append(step)
        if not any(step.role.trains for step in kept):
            kept = [step for step in kept if step.handler.start_of(step.config) is Start.BASE]
        return replace(self, steps=tuple(kept))

    @property
    def shapes_by_data(self) -> bool:
        """Whether some step decides widths by data, so that a skeleton is only a stand-in for the real structure."""
        return any(step.handler.shapes_by_data(step.config) for step in self.steps)

    @property
    def is_quantized(self) -> bool:
        """Whether the artifact rounds otherwise than the PyTorch model in float32."""
        return self.deploy_step is not None or self.bytes_per_weight < 4

    @property
    def bytes_per_weight(self) -> float:
        """Average bytes of a matrix weight in the artifact, at least."""
        return min((step.handler.bytes_per_weight(step.config) for step in self.steps), default=4.0)

    @cached_property
    def hash(self) -> str:
        """Content identity."""
        return content_hash(self.to_dict(), length=12)

    @cached_property
    def key(self) -> str:
        """Identity of its plain values, as trials name it."""
        return content_hash(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML and JSON."""
        return {"runtime": self.runtime, "steps": [step.to_dict() for step in self.steps]}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Recipe:
        """The inverse of :meth:`to_dict`.

        Raises:
            UserError: wrong keys, techniques or parameters.
        """
        unknown = set(value) - {"runtime", "steps"}
        if unknown or not isinstance(value.get("steps", []), list):
            raise UserError("a recipe holds runtime and a list of steps", sorted(value), "see a run's recipe.yaml")
        steps = []
        for step in value.get("steps", []):
            if not isinstance(step, Mapping) or not isinstance(step.get("technique"), str):
                raise UserError("a recipe step names its technique", repr(step), "add the key technique")
            if step["technique"] in RECIPE_KINDS:
                return RECIPE_KINDS.get(step["technique"]).from_dict(value)
            steps.append(_step(step))
        return cls(tuple(steps), value.get("runtime", "onnxruntime"))

    def to_yaml(self) -> str:
        """The recipe as YAML."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    @classmethod
    def from_yaml(cls, text: str) -> Recipe:
        """The inverse of :meth:`to_yaml`; a run's ``recipe.yaml`` too, which holds more than the recipe.

        Raises:
            UserError: not YAML, or wrong keys, techniques or parameters.
        """
        value = parse_yaml(text, "the recipe")
        return cls.from_dict(value["recipe"] if isinstance(value.get("recipe"), dict) else value)

    def __str__(self) -> str:
        return " + ".join([*map(str, self.steps), self.runtime])


def _taken(shape: ModelShape, by_data: bool, step: Step) -> tuple[ModelShape, bool]:
    """The shape after one step, and whether data decide widths in it; ``by_data`` says so of the steps before.

    Raises:
        UserError: its parameters or needs do not fit.
    """
    if by_data and step.handler.needs.equal_blocks:
        rule = f"{step.technique} needs blocks of one width"
        raise UserError(rule, "widths chosen by data before it", "reorder the steps")
    return _reshaped(shape, step), by_data or step.handler.shapes_by_data(step.config)


# Recipes that a search weighs have most of their steps in common, so what is found of these is kept.


@lru_cache(maxsize=8192)
def _made(handler: Technique, technique: str, parameters: tuple[tuple[str, Any], ...], kinds: tuple[type, ...]) -> Step:
    """A checked step; ``kinds`` tell 1 from True and from 1.0, which are equal."""
    return Step(technique, validated(handler.config, dict(parameters), f"technique {technique}"))


@lru_cache(maxsize=4096)
def _require_order(handlers: tuple[Technique, ...], names: tuple[str, ...], runtime: str) -> None:
    """Check which techniques stand in a recipe, and in which order.

    Raises:
        UserError: one of them stands twice, too early or too late, beside one that it excludes, or suits no runtime.
    """
    for position, (name, handler) in enumerate(zip(names, handlers, strict=True)):
        if name in names[:position]:
            raise UserError("a recipe names a technique once", name, "merge the two steps")
        clash = next((other for other in handlers if other.excludes(handler)), None)
        if clash is not None:
            raise UserError("conflicting techniques exclude each other", f"{name} with {clash.name}", "drop one")
        if position and handler.stage < handlers[position - 1].stage:
            raise UserError(
                "steps go images, base, input, structure, attention, tokens, weights, recovery, deploy",
                f"{name} after {names[position - 1]}",
                "reorder the steps",
            )
        if isinstance(handler, DeployTechnique) and position != len(names) - 1:
            raise UserError("a recipe has at most one deploy step", f"{list(names[position:])}", "keep one")
        require_suits(handler, runtime)


@lru_cache(maxsize=4096)
def _acting(shape: ModelShape, step: Step) -> Step | None:
    """The step without parameters that do nothing; None where it changes nothing."""
    handler, config = step.handler, step.config
    if handler.misfit(shape) is not None:
        return step
    return None if handler.is_identity(config, shape) else Step(step.technique, handler.normalised(config, shape))


@lru_cache(maxsize=4096)
def _reshaped(shape: ModelShape, step: Step) -> ModelShape:
    """The shape after one step; a deployment leaves it.

    Raises:
        UserError: its parameters or needs do not fit.
    """
    handler = step.handler
    misfit = handler.misfit(shape)
    if misfit is not None:
        raise UserError(f"{step.technique} needs a model that fits", misfit, "leave the technique out")
    return handler.reshape(shape, step.config) if isinstance(handler, ModelTechnique) else shape


def _on_prepared(steps: Sequence[Step]) -> tuple[Step, ...] | None:
    """The steps as they act on a prepared base, or None where they need the plain one, or change nothing of it."""
    found, cuts = [], 0
    for step in steps:
        handler, acting = step.handler, step
        if isinstance(handler, ModelTechnique) and step.role not in (Role.PREPARE, Role.SUPPLY):
            config = handler.nested(step.config)
            if config is None:
                return None
            acting, cuts = Step(step.technique, config), cuts + (handler.stage < Stage.RECOVERY)
        found.append(acting)
    return tuple(found) if cuts else None


def _step(value: Mapping[str, Any]) -> Step:
    return Step.make(value["technique"], **{key: entry for key, entry in value.items() if key != "technique"})


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
