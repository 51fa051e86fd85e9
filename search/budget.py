"""The budget: what the user asks for, as checked YAML, and the hard limits it sets."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from sousvit.common.errors import UnknownNameError, UserError
from sousvit.common.files import content_hash
from sousvit.common.schema import read_yaml, validated
from sousvit.common.specs import DataSpec, ModelSpec, Task, require_task
from sousvit.objectives.objective import Objective, get_objective
from sousvit.objectives.plugins import load_objective
from sousvit.objectives.targets.target import REACHING, Target, load_target, make_target
from sousvit.search.record import Value
from sousvit.spaces.synthesis.config import synthesis_of

if TYPE_CHECKING:
    from sousvit.spaces.shape import ModelShape
    from sousvit.spaces.space import Space

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d)", re.IGNORECASE)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
#: Stored intervals are two-sided at 95%.
_INTERVAL_Z = NormalDist().inv_cdf(0.975)
#: Objectives that are shares between 0 and 1.
QUALITIES = ("accuracy", "map", "map50", "agreement")
#: Of synthesised images, in the run folder.
CONTACT_SHEET = "synthesised.png"
_NO_LABELS = {"unlabelled": "data with labels: false", "none": "data without training images"}
_QUANTITY = re.compile(r"([-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)\s*([A-Za-z%]*)")


def parse_duration(value: object) -> object:
    """Seconds from a number or from text such as ``30m``, ``1h30m``, ``90s``.

    Raises:
        UserError: neither.
    """
    if not isinstance(value, str):
        return value
    parts = _DURATION.findall(value)
    if not parts or _DURATION.sub("", value).strip():
        raise UserError("a duration is a number with s, m, h or d", repr(value), "write for instance 30m or 1h30m")
    return sum(float(number) * _SECONDS[unit.lower()] for number, unit in parts)


Duration = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]


class SearchLimits(BaseModel):
    """When a search ends, what one trial may take, and how sure a limit must be.

    ``confidence`` is the one-sided level at which a measured figure must hold its limit: a figure with an
    interval is judged at that end of it, because a recipe picked for just holding a limit on validation
    images breaks it on other images half of the time (0.5 judges the figure itself).

    ``explore_fidelity`` is the share of the recovery epochs that a trial gets before it is promoted, first to ``eta``
    times as much where that is less than all of them; a rung that costs nearly as much as the next one, because
    exporting and judging take longer than training, is left out. At 0 a model that was cut and repaired is judged
    before its recovery, and other recipes begin at ``1 / eta`` of the epochs. ``explore_share`` is the share of trials
    and time that explores, the rest trains hopeful recipes in full: both from the start, and when so much is spent all
    that is left goes to promotions. ``leave_one_out`` measures at the end what each technique of the recipe bought.

    ``measure_time`` is how long a trial's artifact and the base are timed side by side; the rows of the final table
    are timed 3.3 times as long. More makes the intervals narrower, for instance on a busy machine. ``cache_gb`` bounds
    what the run folder keeps of trained models and of the teacher's answers; what is gone is computed again.

    ``proposer``: ``auto`` weighs recipes by what they should add (:mod:`sousvit.search.model_based`) where that
    applies, and samples by TPE, or by NSGA-II in searches of 1,000 trials and more; the others sample only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    trials: int = Field(default=100, ge=1)
    time: Duration | None = None
    seed: int = Field(default=0, ge=0, lt=2**31)
    trial_timeout: Duration = 3600.0
    trial_memory_gb: float | None = Field(default=None, gt=0)
    explore_fidelity: float = Field(default=0.0, ge=0, le=1)
    eta: float = Field(default=4.0, ge=1.5)
    explore_share: float = Field(default=0.45, gt=0, le=1)
    confidence: float = Field(default=0.9, ge=0.5, lt=1)
    leave_one_out: bool = True
    measure_time: Duration = 1.2
    cache_gb: float = Field(default=10.0, gt=0)
    proposer: Literal["auto", "tpe", "nsga2"] = "auto"


class RayOptions(BaseModel):
    """Which Ray cluster runs the trials, and what one takes.

    ``address``: a cluster's (``auto`` for the one this machine belongs to); without it, and without ``RAY_ADDRESS`` in
    the environment, one is started on this machine for this search only.
    A trial takes ``cpus``, ``gpus`` and any other ``resources`` by name; ``workers`` bounds how many run at once.
    ``storage`` (a path or a URI such as ``s3://...``) carries artifacts and cache entries where workers do not see the
    run folder. A trial whose worker or node is lost is run again up to ``max_failures`` times.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    address: str | None = None
    cpus: float = Field(default=1.0, gt=0)
    gpus: float = Field(default=0.0, ge=0)
    resources: dict[str, float] = {}
    workers: int | None = Field(default=None, ge=1)
    storage: str | None = None
    max_failures: int = Field(default=3, ge=0)


class Plugins(BaseModel):
    """Files with a user's own classes, as ``file.py:ClassName``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    objectives: tuple[str, ...] = ()


@dataclass(frozen=True)
class Limit:
    """A hard limit: ``value <= bound`` for a minimised objective, ``value >= bound`` for a maximised one.

    ``confidence`` in [0.5, 1) is the one-sided level at which a figure with an interval must hold it.
    """

    name: str
    bound: float
    maximise: bool
    confidence: float = 0.5

    def violation(self, value: Value | None) -> float:
        """Signed relative violation, above 0 where broken; what Optuna gets as a constraint value."""
        if value is None or math.isnan(value.value):
            return math.inf
        scale = abs(self.bound) or 1.0
        judged = self.cautious(value)
        return (self.bound - judged if self.maximise else judged - self.bound) / scale

    def cautious(self, value: Value) -> float:
        """The figure that is held against the bound: the worse end of its one-sided interval at ``confidence``."""
        end = value.low if self.maximise else value.high
        if end is None:
            return value.value
        return value.value + (end - value.value) * self._share_of_interval

    def may_hold(self, value: Value) -> bool:
        """Whether the figure could hold it by the better end of its one-sided interval."""
        end = value.high if self.maximise else value.low
        hoped = value.value if end is None else value.value + (end - value.value) * self._share_of_interval
        return hoped >= self.bound if self.maximise else hoped <= self.bound

    @cached_property
    def _share_of_interval(self) -> float:
        return NormalDist().inv_cdf(self.confidence) / _INTERVAL_Z

    def phrase(self, value: Value | None) -> str:
        """For instance ``latency_ratio 0.41, limit <= 0.25``; with the judged end where it is not the figure itself."""
        bound = f"limit {'>=' if self.maximise else '<='} {self.bound:g}"
        if value is None:
            return f"{self.name} was not measured, {bound}"
        judged = self.cautious(value)
        sure = "" if judged == value.value else f" ({judged:.4g} at {self.confidence:.0%} confidence)"
        return f"{self.name} {value.value:.4g}{sure}, {bound}"

    def __str__(self) -> str:
        return f"{self.name} {'>=' if self.maximise else '<='} {self.bound:g}"


class Budget(BaseModel):
    """The user's request.

    With several ``targets``, figures are the first one's unless they name another: ``latency@phone``. A recipe has one
    runtime, which all targets must allow.
    ``limits`` maps an objective (or its ``_ratio`` / ``_drop`` form) to a number, with or without the unit.
    ``optimize`` is a list of objectives, or a mapping to weights for the choice among equally good recipes. ``task``
    need not be said, the model knows it; said, it is checked.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    model: ModelSpec
    data: DataSpec
    task: Task | None = None
    targets: tuple[Target, ...] = Field(default=(Target(),), min_length=1)
    limits: dict[str, float | str] = {}
    optimize: dict[str, float]
    space: str | dict[str, Any] = "default"
    search: SearchLimits = SearchLimits()
    ray: RayOptions | None = None
    plugins: Plugins = Plugins()

    @field_validator("targets", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return value if isinstance(value, list | tuple) else [value]

    @field_validator("targets")
    @classmethod
    def _go_together(cls, value: tuple[Target, ...]) -> tuple[Target, ...]:
        labels = [target.label for target in value]
        if len(set(labels)) != len(labels):
            raise UserError("targets of one search have different names", labels, "add name: to each")
        shared = [name for name in value[0].runtimes if all(name in target.runtimes for target in value)]
        if not shared:
            raise UserError("targets of one search share a runtime", "none in common", "run one search a target")
        return value

    @field_validator("limits", mode="before")
    @classmethod
    def _no_switches(cls, value: Any) -> Any:
        return refuse_switches(value)

    @field_validator("optimize", mode="before")
    @classmethod
    def _optimize_weights(cls, value: Any) -> Any:
        names = [value] if isinstance(value, str) else value
        if isinstance(names, list | tuple):
            if len(set(map(str, names))) != len(names):
                raise UserError("optimize names an objective once", names, "remove the repetition")
            if not all(isinstance(name, str) for name in names):
                raise UserError("optimize lists names, or maps them to weights", value, "write optimize: {latency: 2}")
            names = dict.fromkeys(names, 1.0)
        if not names:
            raise UserError("optimize names at least one objective", value, "add for instance optimize: [latency]")
        return names

    @field_validator("optimize")
    @classmethod
    def _positive(cls, value: dict[str, float]) -> dict[str, float]:
        for name, weight in value.items():
            if not weight > 0 or math.isinf(weight):
                raise UserError("an optimize weight is a positive number", f"{name}: {weight}", "correct or remove it")
        return value

    @model_validator(mode="after")
    def _known_limits(self) -> Budget:
        labels = [target.label for target in self.targets]
        for name in (*self.optimize, *self.limits):
            get_objective(name)
            target = name.partition("@")[2]
            if target and target not in labels:
                raise UnknownNameError("what stands behind the @", target, labels)
        self.hard_limits  # noqa: B018 - parsing checks names and units
        if self.data.kind != "labelled":
            synthesis_of(self.data)
            for name in (*self.optimize, *self.limits):
                if get_objective(name).needs_labels:
                    raise UserError(f"{name} needs labels", _NO_LABELS[self.data.kind], "ask for agreement instead")
        return self

    @property
    def target(self) -> Target:
        """The first target: what figures without a target's name are of."""
        return self.targets[0]

    @property
    def runtimes(self) -> tuple[str, ...]:
        """What a recipe may be deployed in: the runtimes of all targets, in the first one's order."""
        return tuple(name for name in self.target.runtimes if all(name in other.runtimes for other in self.targets))

    @property
    def where(self) -> str:
        """All targets in words."""
        return "; ".join(map(str, self.targets))

    def part(self, name: str) -> Any:
        """A top-level part for comparing with another budget's; of targets what they are, not how they are reached."""
        if name != "targets":
            return getattr(self, name)
        plain = {key: field.default for key, field in Target.model_fields.items() if key in REACHING}
        return tuple(target.model_copy(update=plain) for target in self.targets)

    @cached_property
    def hard_limits(self) -> tuple[Limit, ...]:
        """The limits, parsed and checked for what no model can reach."""
        limits = parse_limits(self.limits, self.search.confidence)
        _check_contradictions(limits)
        return limits

    @property
    def objectives(self) -> list[Objective]:
        """What is optimised, in the user's order."""
        return [get_objective(name) for name in self.optimize]

    @property
    def senses(self) -> dict[str, bool]:
        """Per optimised objective whether more is better."""
        return {objective.name: objective.direction == "maximize" for objective in self.objectives}

    @property
    def identity(self) -> str:
        """Hash of everything that decides what a trial's result means; trials and time may change on resume."""
        left_out: Any = {
            "ray": True,
            "search": {"trials", "time", "leave_one_out", "explore_share"},
            "targets": {"__all__": REACHING},
        }
        return content_hash(self.model_dump(mode="json", exclude=left_out))


def refuse_switches(limits: Any) -> Any:
    """``limits`` as they are.

    Raises:
        UserError: one is true or false, which would pass for 1 or 0.
    """
    for name, bound in limits.items() if isinstance(limits, Mapping) else ():
        if isinstance(bound, bool):
            raise UserError("a limit is a finite number", f"{name}: {bound}", "correct the limit")
    return limits


def parse_limits(values: Mapping[str, float | str], confidence: float = 0.5) -> tuple[Limit, ...]:
    """Limits from a budget's mapping.

    Raises:
        UnknownNameError: no such objective.
        UserError: no number, or another unit than the objective's.
    """
    return tuple(replace(_limit(name, value), confidence=confidence) for name, value in values.items())


def _limit(name: str, value: float | str) -> Limit:
    objective = get_objective(name)
    number = value
    if isinstance(value, str):
        match = _QUANTITY.fullmatch(value.strip())
        if match is None:
            raise UserError(
                "a limit is a number, with or without its unit",
                f"{name}: {value!r}",
                f"write for instance 1.5 {objective.unit}",
            )
        number = float(match[1])
        if match[2] == "%" and objective.unit in ("share", "ratio"):
            number /= 100
        elif match[2] and match[2].lower() != objective.unit.lower():
            raise UserError(
                f"{name} is measured in {objective.unit}", f"{match[2]!r}", f"give the limit in {objective.unit}"
            )
    if not math.isfinite(float(number)):
        raise UserError("a limit is a finite number", f"{name}: {value!r}", "correct the limit")
    return Limit(name, float(number), objective.direction == "maximize")


def _check_contradictions(limits: tuple[Limit, ...]) -> None:
    """Limits that no model can meet, whatever it is."""
    for limit in limits:
        if not get_objective(limit.name).signed and not limit.maximise and limit.bound <= 0:
            raise UserError("a limit must be reachable", str(limit), "give a bound above 0")
        if limit.name in QUALITIES and not 0 <= limit.bound <= 1:
            raise UserError(f"{limit.name} is a share between 0 and 1", str(limit), "write for instance 0.91 or 91%")
        if limit.name.removesuffix("_drop") in QUALITIES and limit.bound >= 1 and limit.name not in QUALITIES:
            raise UserError(f"{limit.name} is a share below 1", str(limit), "write for instance 0.01 for one point")


def open_space(budget: Budget, shape: ModelShape) -> tuple[Space, dict[str, str]]:
    """The budget's space on a base of ``shape``, and why techniques were left out."""
    from sousvit.spaces.space import make_space, read_space

    has_images = budget.data.kind != "none"
    return make_space(read_space(budget.space), shape, budget.runtimes, has_images)


def read_budget(path: Path) -> Budget:
    """Read and check a budget file; paths in it are relative to it.

    Raises:
        UserError: anything wrong, in one line.
    """
    value = read_yaml(path)
    return make_budget(value, path.parent, str(path))


def make_budget(value: Mapping[str, Any], folder: Path, where: str = "budget", data_root: Path | None = None) -> Budget:
    """A checked budget from plain values, with its plug-ins loaded and its paths made absolute.

    Paths start in ``folder``, those of data in ``data_root`` where it is given.
    """
    value = dict(value)
    plugins = validated(Plugins, value.get("plugins") or {}, f"{where}: plugins")
    references = tuple(_absolute(reference, folder) for reference in plugins.objectives)
    for reference in references:
        load_objective(reference)
    if "targets" in value:
        value["targets"] = _targets(value["targets"], folder, f"{where}: targets")
    budget = validated(Budget, {**value, "plugins": {"objectives": list(references)}}, where)
    space = budget.space
    if isinstance(space, str) and space.endswith((".yaml", ".yml")):
        space = read_yaml(folder / space)
    data = budget.data.resolved(data_root or folder)
    resolved = {"model": budget.model.resolved(folder), "data": data, "space": space}
    budget = budget.model_copy(update=resolved)
    _check_task(budget)
    return budget


def _check_task(budget: Budget) -> None:
    """Model, data and objectives belong to one task."""
    task = budget.model.task
    if budget.task not in (None, task):
        raise UserError("a budget's task is its model's", f"{budget.task}, a model for {task}", "correct task or model")
    require_task(budget.model, budget.data)
    for name in (*budget.optimize, *budget.limits):
        needed = get_objective(name).task
        if needed not in (None, task):
            raise UserError(f"{name} is measured for {needed}", f"a model for {task}", "choose another objective")


def _targets(given: Any, folder: Path, where: str) -> Any:
    """Profiles by name or file, read; files are relative to the budget's."""
    entries = given if isinstance(given, list | tuple) else [given]
    return [
        load_target(entry, folder) if isinstance(entry, str) else make_target(entry, folder, where) for entry in entries
    ]


def _absolute(reference: str, folder: Path) -> str:
    path, _, name = reference.rpartition(":")
    return f"{(folder / path).resolve()}:{name}" if path else reference
