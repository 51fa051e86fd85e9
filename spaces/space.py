"""A search space: techniques with the values a search may choose, sampled by run with Optuna's ``suggest`` calls.

Techniques that exclude each other share one categorical parameter (``one_of.<a>|<b>``), and so do the
deploy techniques with the runtimes they make artifacts for (``deploy``). Parameters are asked only where
they act, so the space is conditional.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sousvit.checked import parse_yaml, read_yaml, validated_field
from sousvit.errors import UnknownNameError, UserError
from sousvit.files import content_hash
from sousvit.spaces.context import Start
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.technique import (
    DeployTechnique,
    ModelTechnique,
    Role,
    StepConfig,
    Technique,
    get_technique,
    place,
)

if TYPE_CHECKING:
    from sousvit.spaces.shape import ModelShape

PRESETS = Path(__file__).parent / "presets"
NONE = "none"
DEPLOY = "deploy"
ORDER, FIRST, LAST = "order", "first", "last"
#: Suggestions up to which a space is listed whole.
LISTED = 20_000
#: Of one parameter, at most.
MOST_VALUES = 1000


class Suggester(Protocol):
    """The part of ``optuna.Trial`` that a space uses."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of ``choices``."""
        ...


@dataclass(frozen=True)
class Option:
    """A technique in a space, with the values of each parameter."""

    technique: str
    values: Mapping[str, tuple[Any, ...]]

    def suggest(self, trial: Suggester) -> Step:
        """One step; parameters with a single value, and those without effect beside the others, are not asked."""
        chosen: dict[str, Any] = {}
        for name, values in self.values.items():
            if self.handler.is_asked(name, chosen):
                chosen[name] = choose(trial, f"{self.technique}.{name}", values)
        return Step.make(self.technique, **chosen)

    def step(self, parameters: Mapping[str, Any]) -> Step:
        """The setting with ``parameters``, without those that have no effect beside the ones before them."""
        kept: dict[str, Any] = {}
        for name, value in parameters.items():
            if self.handler.is_asked(name, kept):
                kept[name] = value
        return Step.make(self.technique, **kept)

    def trained(self, step: Step) -> Step:
        """``step``, for a student: where it would not train, the first setting besides that does."""
        handler = self.handler
        if not handler.role.trains or handler.epochs_of(step.config, 1.0) > 0:
            return step
        kept = step.config.model_dump(mode="json")
        others = (self.step({**kept, name: value}) for name in self.values for value in self.values[name])
        return next((other for other in others if handler.epochs_of(other.config, 1.0) > 0), step)

    @property
    def handler(self) -> Technique:
        """The technique itself."""
        return get_technique(self.technique)

    def default_step(self, shape: ModelShape | None = None) -> Step:
        """The technique's defaults where the values allow them, otherwise the middle value that changes something."""
        defaults = {name: self.handler.config.model_fields[name].default for name in self.values}
        chosen = {
            name: defaults[name] if defaults[name] in values else values[len(values) // 2]
            for name, values in self.values.items()
        }
        step = self.step(chosen)
        if shape is None or not self.handler.is_identity(step.config, shape):
            return step
        samples = self.samples(shape)
        return samples[0] if samples else step

    def samples(self, shape: ModelShape) -> list[Step]:
        """At most two settings that change something, the others at their first values: a middle and the last one."""
        active = self.settings(shape)
        return [active[(len(active) - 1) // 2], active[-1]] if len(active) > 1 else active

    def at_level(self, level: float, shape: ModelShape) -> Step | None:
        """The setting at ``level`` in [0, 1], from what saves least to what saves most; None where nothing does."""
        handler, active = self.handler, self.settings(shape)
        assert isinstance(handler, ModelTechnique)

        def cost(step: Step) -> tuple[int, int]:
            changed = handler.reshape(shape, step.config)
            return changed.macs(), changed.params()

        ordered = sorted(active, key=cost, reverse=True)
        return ordered[round(level * (len(ordered) - 1))] if ordered else None

    def settings(self, shape: ModelShape) -> list[Step]:
        """Settings that change something, along the parameter that says how much; others at the first that do."""
        first = {name: values[0] for name, values in self.values.items()}
        for name, values in self.values.items():
            steps = [self.step({**first, name: value}) for value in values]
            active = [step for step in steps if not self.handler.is_identity(step.config, shape)]
            if len(active) < len(steps) and active:
                return self._along_scale(active)
        return self._along_scale([self.step(first)])

    def _along_scale(self, active: list[Step]) -> list[Step]:
        scale = self.values.get(self.handler.scale)
        if scale is None:
            return active
        kept = active[0].config.model_dump(mode="json")
        return [self.step({**kept, self.handler.scale: value}) for value in scale]

    @property
    def size(self) -> int:
        """Number of value combinations."""
        return math.prod(len(values) for values in self.values.values())


@dataclass(frozen=True)
class Space:
    """Techniques and deployments that a search may combine.

    Attributes:
        groups: per group the options that exclude each other, in stage order.
        deploys: per choice name (``runtime`` or ``runtime:technique``) its runtime and option.
    """

    groups: tuple[tuple[Option, ...], ...]
    deploys: Mapping[str, tuple[str, Option | None]]
    #: What :meth:`deploys_of` found, by techniques and whether linear layers are left.
    _suiting: dict[tuple[Any, ...], Mapping[str, tuple[str, Option | None]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def suggest(self, trial: Suggester) -> Recipe:
        """Ask ``trial`` for a recipe."""
        steps: list[Step] = []
        plain = True
        for group in self.groups:
            if not plain and any(option.handler.needs.plain_vit for option in group):
                continue
            option = group[0]
            if len(group) > 1:
                names = [NONE, *_techniques(group)]
                chosen = trial.suggest_categorical(_group_name(group), names)
                if chosen == NONE:
                    continue
                option = next(entry for entry in group if entry.technique == chosen)
            step = option.suggest(trial)
            if any(other.handler.start_of(other.config) is not Start.BASE for other in steps):
                step = option.trained(step)
            steps.append(step)
            plain = plain and isinstance(step.handler, ModelTechnique) and step.handler.leaves_plain(step.config)
        steps = self._ordered(sorted(steps, key=lambda step: place(step.handler)), trial)
        deploys = self.deploys_of(steps)
        runtime, deploy = deploys[choose(trial, self._deploy_name(deploys), list(deploys))]
        if deploy is not None:
            steps.append(deploy.suggest(trial))
        return Recipe(tuple(steps), runtime)

    def _ordered(self, steps: list[Step], trial: Suggester) -> list[Step]:
        """Movable steps where the trial wants them: before or after those that they may follow."""
        for step in [step for step in steps if step.handler.movable_past]:
            passed = [other for other in steps if other.technique in step.handler.movable_past]
            if passed and trial.suggest_categorical(f"{ORDER}.{step.technique}", [FIRST, LAST]) == LAST:
                steps.remove(step)
                steps.insert(steps.index(passed[-1]) + 1, step)
        return steps

    def deploys_of(self, steps: Iterable[Step]) -> Mapping[str, tuple[str, Option | None]]:
        """The deployments that no step excludes, or leaves nothing to act on."""
        steps = list(steps)
        has_linear = all(step.handler.leaves_linear(step.config) for step in steps)
        handlers = tuple(step.handler for step in steps if isinstance(step.handler, ModelTechnique))
        key = handlers, has_linear
        if key not in self._suiting:
            self._suiting[key] = self._suited(handlers, has_linear)
        return self._suiting[key]

    def _suited(self, handlers: Sequence[Technique], has_linear: bool) -> Mapping[str, tuple[str, Option | None]]:
        return {
            name: (runtime, option)
            for name, (runtime, option) in self.deploys.items()
            if all(handler.suits(runtime) for handler in handlers)
            and (option is None or not any(option.handler.excludes(handler) for handler in handlers))
            and (has_linear or option is None or not _is_linear_only(option.handler, runtime))
        }

    def values_of(self, name: str) -> tuple[Any, ...] | None:
        """The values that :meth:`suggest` asks for under ``name``; None where that is not known before it asks."""
        if name not in self._asked_values and name.startswith(DEPLOY):
            self._asked_values.update((self._deploy_name(found), tuple(found)) for found in self._suiting.values())
        return self._asked_values.get(name)

    @cached_property
    def _asked_values(self) -> dict[str, tuple[Any, ...]]:
        """By parameter; of deployments all, and the fewer ones that were met so far."""
        found: dict[str, tuple[Any, ...]] = {DEPLOY: tuple(self.deploys)}
        found |= {_group_name(group): (NONE, *_techniques(group)) for group in self.groups if len(group) > 1}
        for option in self.options():
            found |= {f"{option.technique}.{name}": values for name, values in option.values.items()}
            if option.handler.movable_past:
                found[f"{ORDER}.{option.technique}"] = FIRST, LAST
        return found

    def first_runtime(self, *steps: Step) -> str:
        """The first runtime that ``steps`` suit."""
        return next(iter(self.deploys_of(steps).values()))[0]

    def _deploy_name(self, deploys: Mapping[str, object]) -> str:
        """Optuna wants the same values under the same name: fewer deployments are another parameter."""
        return (
            DEPLOY
            if len(deploys) == len(self.deploys)
            else f"{DEPLOY}({len(deploys)}: {content_hash(list(deploys), length=4)})"
        )

    def parameters(self, recipe: Recipe, shape: ModelShape) -> dict[str, Any] | None:
        """The Optuna parameters that :meth:`suggest` needs to give ``recipe``, or None if it lies outside.

        Steps that the recipe leaves out get their identity values, so canonical recipes can be asked again.
        """
        recorder = _Recorder(self, recipe, shape)
        try:
            found = self.suggest(recorder)
        except LookupError:
            return None
        return recorder.asked if found.canonical(shape) == recipe.canonical(shape) else None

    @property
    def size(self) -> int:
        """Number of different suggestions (an upper bound on different recipes)."""
        total = math.prod(
            group[0].size if len(group) == 1 else 1 + sum(option.size for option in group) for group in self.groups
        )
        return total * sum(1 if option is None else option.size for _, option in self.deploys.values())

    @property
    def is_listed(self) -> bool:
        """Whether it is small enough for all of its suggestions to be looked at."""
        return self.size <= LISTED

    def suggestions(self) -> Iterator[tuple[dict[str, Any], Recipe]]:
        """All parameters that a trial could be asked for, with their recipes; as many as :attr:`size` at most."""
        path: list[int] | None = []
        while path is not None:
            trial = _PathTrial(path)
            recipe = self.suggest(trial)
            yield trial.asked, recipe
            path = _following([*path, *[0] * (len(trial.widths) - len(path))], trial.widths)

    def draw(self, generator: random.Random, known: Mapping[str, Any]) -> tuple[dict[str, Any], Recipe]:
        """A random suggestion that keeps ``known`` parameters where they fit."""
        trial = _RandomTrial(generator, known)
        recipe = self.suggest(trial)
        return trial.asked, recipe

    @property
    def trains(self) -> bool:
        """Whether some of its recipes train."""
        return any(option.handler.role.trains for option in self.options())

    def options(self) -> Iterable[Option]:
        """Every option."""
        for group in self.groups:
            yield from group
        yield from (option for _, option in self.deploys.values() if option is not None)


class _Recorder:
    """A trial that answers with the values of one recipe."""

    def __init__(self, space: Space, recipe: Recipe, shape: ModelShape) -> None:
        self._steps = {step.technique: step for step in recipe.steps}
        deploy = recipe.deploy_step
        self._deploy = recipe.runtime if deploy is None else f"{recipe.runtime}:{deploy.technique}"
        self._shape = shape
        self._options = {option.technique: option for option in space.options()}
        self.asked: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        value = self._answer(name, choices)
        if value not in choices:
            if name.partition(".")[0] not in self._options:
                raise LookupError(name)
            # A parameter without effect stands at its default, which a space need not list; the recipes are compared.
            value = choices[0]
        self.asked[name] = value
        return value

    def _answer(self, name: str, choices: Sequence[Any]) -> Any:
        if name.startswith(DEPLOY):
            return self._deploy
        technique, _, parameter = name.partition(".")
        if technique == ORDER:
            names, past = list(self._steps), get_technique(parameter).movable_past
            before = names[: names.index(parameter)] if parameter in names else []
            return LAST if past.intersection(before) else FIRST
        if technique == "one_of":
            return next((entry for entry in choices if entry in self._steps), NONE)
        if technique in self._steps:
            return self._steps[technique].config.model_dump(mode="json")[parameter]
        return self._identity(technique)[parameter]

    def _identity(self, technique: str) -> dict[str, Any]:
        """Values with which ``technique`` changes nothing."""
        option, handler = self._options[technique], get_technique(technique)
        first = {name: values[0] for name, values in option.values.items()}
        if handler.role is Role.SUPPLY:  # a recipe that looks at no image has none of its own, whatever was asked
            return first
        for name, values in option.values.items():
            for value in values:
                step = option.step({**first, name: value})
                if handler.is_identity(step.config, self._shape):
                    return {**first, name: value}
        raise LookupError(technique)


class _RandomTrial:
    """Answers with known parameters where they fit, otherwise at random."""

    def __init__(self, generator: random.Random, known: Mapping[str, Any]) -> None:
        self._random, self._known = generator, known
        self.asked: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        value = self._known.get(name)
        self.asked[name] = value if name in self._known and value in choices else self._random.choice(list(choices))
        return self.asked[name]


class _PathTrial:
    """Answers along a path of choices, the first one where the path ends, and notes how many there were."""

    def __init__(self, path: Sequence[int]) -> None:
        self._path, self.widths = path, list[int]()
        self.asked: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        place = len(self.widths)
        self.widths.append(len(choices))
        self.asked[name] = choices[self._path[place] if place < len(self._path) else 0]
        return self.asked[name]


def _following(path: list[int], widths: Sequence[int]) -> list[int] | None:
    """The next path in order, like an odometer; None after the last one."""
    while path and path[-1] + 1 >= widths[len(path) - 1]:
        path.pop()
    if not path:
        return None
    return [*path[:-1], path[-1] + 1]


def _is_linear_only(handler: Technique, runtime: str) -> bool:
    return handler.needs.linear or (isinstance(handler, DeployTechnique) and runtime in handler.linear_only)


def preset_names() -> list[str]:
    """Names of the spaces that ship with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def read_space(definition: str | Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """A space as plain values, to be changed and handed to a search: a preset's, a YAML file's, or the mapping itself.

    For instance ``{"techniques": {"prune_mlp": {"keep": [0.5, 0.75]}, "int8_dynamic": {}}}``, where ``{}`` stands for
    all values that the technique declares.

    Raises:
        UnknownNameError: no such preset or file.
        UserError: wrong keys, unknown techniques or parameters.
    """
    if isinstance(definition, str):
        if definition in preset_names():
            value = parse_yaml((PRESETS / f"{definition}.yaml").read_text(), definition)
        elif definition.endswith((".yaml", ".yml")):
            value = read_yaml((folder or Path()) / definition)
        else:
            raise UnknownNameError("space", definition, preset_names())
    else:
        value = dict(definition)
    unknown = set(value) - {"summary", "techniques"}
    if unknown or not isinstance(value.get("techniques"), Mapping):
        raise UserError(
            "a space holds techniques", f"keys {sorted(value)}", "add techniques: {name: {parameter: [values]}}"
        )
    techniques = {name: _read_option(str(name), given) for name, given in value["techniques"].items()}
    return {**value, "techniques": techniques}


def _read_option(technique: str, given: Any) -> Any:
    """What a space says of a technique, its values held against the technique's own rules, one by one.

    Whether they go together is seen once the base's shape is known, see :func:`make_space`.
    """
    config = get_technique(technique).config
    if given is None:
        return None
    if not isinstance(given, Mapping):
        rule = "a technique in a space maps parameters to values"
        raise UserError(rule, f"{technique}: {given!r}", f"write {technique}: {{}}")
    read: dict[str, Any] = {}
    for parameter, values in given.items():
        if parameter not in config.model_fields:
            raise UnknownNameError(f"parameter of {technique}", parameter, config.model_fields)
        listed = _listed(values)
        _require_values(technique, parameter, listed)
        found = [_read_value(config, parameter, value, technique) for value in listed]
        read[parameter] = found if isinstance(values, list | tuple) else found[0]
    return read


def _listed(values: Any) -> tuple[Any, ...]:
    return tuple(values) if isinstance(values, list | tuple) else (values,)


def _require_values(technique: str, parameter: str, listed: Sequence[Any]) -> None:
    if not 0 < len(listed) <= MOST_VALUES:
        rule = f"a searched parameter has 1 to {MOST_VALUES} values"
        raise UserError(rule, f"{technique}.{parameter}: {len(listed) or 'none'}", "list some")


def _read_value(config: type[StepConfig], parameter: str, value: Any, technique: str) -> Any:
    """The value; a number that YAML takes for text (``1e-3``) as a number, so that a search knows it again."""
    found = validated_field(config, parameter, value, f"technique {technique} in the space")
    return found if isinstance(value, str) and isinstance(found, int | float) else value


def make_space(
    definition: Mapping[str, Any], shape: ModelShape, runtimes: Sequence[str], has_images: bool = True
) -> tuple[Space, dict[str, str]]:
    """The space for a base of ``shape`` on a target's ``runtimes``, and why techniques were left out.

    Techniques that do not fit the model, the runtimes or the installed packages are left out with a reason; where there
    are training images, those that would make some are.

    Raises:
        UserError: a listed value does not suit its technique.
    """
    usable: list[Option] = []
    left_out: dict[str, str] = {}
    deploys: dict[str, tuple[str, Option | None]] = {runtime: (runtime, None) for runtime in runtimes}
    order = sorted(definition["techniques"], key=lambda name: place(get_technique(name)))
    for name in order:
        handler = get_technique(name)
        reason = "there are training images" if handler.role is Role.SUPPLY and has_images else None
        reason = reason or _why_not(handler, shape, runtimes)
        if reason is not None:
            left_out[name] = reason
            continue
        option = _option(handler, definition["techniques"][name] or {}, shape)
        if isinstance(handler, DeployTechnique):
            for runtime in runtimes:
                if handler.suits(runtime):
                    deploys[f"{runtime}:{name}"] = (runtime, option)
        else:
            usable.append(option)
    return Space(_groups(usable), deploys), left_out


def _why_not(handler: Technique, shape: ModelShape, runtimes: Sequence[str]) -> str | None:
    if not any(handler.suits(runtime) for runtime in runtimes):
        return f"makes no artifact for {', '.join(runtimes)}"
    return handler.needs.missing() or handler.misfit(shape)


def _option(handler: Technique, given: Mapping[str, Any], shape: ModelShape) -> Option:
    instead = {old: new for new, old in handler.instead_of.items() if new in given}
    declared = {instead.get(name, name): values for name, values in handler.choices(shape).items()}
    values: dict[str, tuple[Any, ...]] = {}
    for name in [*declared, *(key for key in given if key not in declared)]:
        listed = given.get(name, declared.get(name))
        values[name] = _listed(listed)
        _require_values(handler.name, name, values[name])
    option = Option(handler.name, values)
    first = {name: listed[0] for name, listed in values.items()}
    beside = [first, *({**first, name: value} for name, listed in values.items() for value in listed)]
    for name, listed in values.items():
        acting = next((others for others in beside if handler.is_asked(name, others)), first)
        for value in listed:
            option.step({**acting, name: value})
    return option


def _groups(options: Sequence[Option]) -> tuple[tuple[Option, ...], ...]:
    """Options that exclude each other together, the others alone."""
    groups: list[list[Option]] = []
    for option in options:
        home = next((group for group in groups if any(option.handler.excludes(other.handler) for other in group)), None)
        if home is None:
            groups.append([option])
        else:
            home.append(option)
    return tuple(tuple(group) for group in groups)


def choose(trial: Suggester, name: str, values: Sequence[Any]) -> Any:
    """One of ``values``, which ``trial`` is asked for where there are several."""
    return values[0] if len(values) == 1 else trial.suggest_categorical(name, values)


def _group_name(group: Sequence[Option]) -> str:
    return "one_of." + "|".join(_techniques(group))


def _techniques(group: Sequence[Option]) -> list[str]:
    return [option.technique for option in group]
