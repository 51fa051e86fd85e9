"""The budget: what the user asks for, as checked YAML, and the hard limits it sets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from sousvit.checked import Checked, read_yaml, validated
from sousvit.data.layout import resolve_data
from sousvit.errors import UnknownNameError, UserError
from sousvit.files import content_hash
from sousvit.objectives.objective import Measurement, Objective, get_objective
from sousvit.objectives.targets.profiles import load_target, make_target
from sousvit.objectives.targets.target import REACHING, Target
from sousvit.search.goals import Goals
from sousvit.search.limits import Duration, Limit, _check_contradictions, parse_limits
from sousvit.search.plugins import load_plugins
from sousvit.search.proposers.proposer import PROPOSERS
from sousvit.search.trackers.tracker import TRACKERS
from sousvit.spaces.sources import located
from sousvit.spaces.techniques.synthesis.config import synthesis_of
from sousvit.specs import DataSpec, ModelSpec, Task, require_task, require_test_path

if TYPE_CHECKING:
    from sousvit.spaces.shape import ModelShape
    from sousvit.spaces.space import Space

#: Of synthesised images, in the run folder.
CONTACT_SHEET = "synthesised.png"
#: What a search may do without, to see what each is worth.
LEVERS = ("gates", "starters", "unrecovered", "variants")
_NO_LABELS = {"unlabelled": "data with labels: false", "none": "data without training images"}


#: More is a slip of the hand, and would be told by the allocator in the middle of a search.
MOST_TRIALS, MOST_GB, MOST_OF_CLUSTER, MOST_TARGETS, MOST_WORKERS = 1_000_000, 1_000_000, 100_000, 64, 1024

#: Share of the validation images that is held back from the trials.
CONFIRM = 0.5
#: Weight of what is optimised and not preferred, as a share of the least preferred one's.
OTHERS_SHARE = 0.1


class SearchLimits(Checked):
    """The limits of a search: when it ends, what one trial may take, how sure a hard limit must be.

    ``confidence`` is the one-sided level at which a measured figure must hold its limit: a figure with an
    interval is judged at that end of it, because a recipe picked for just holding a limit on validation
    images breaks it on other images half of the time (0.5 judges the figure itself).

    ``confirm`` is the share of the validation images that no trial is judged on: the answer is confirmed there, because
    the choice among many candidates flatters the chosen one on the images that judged it.

    ``explore_fidelity`` is the share of the recovery epochs that a trial gets before it is promoted, first to ``eta``
    times as much where that is less than all of them; a rung that costs nearly as much as the next one, because
    exporting and judging take longer than training, is left out. At 0 a model that was cut and repaired is judged
    before its recovery, and other recipes begin at ``1 / eta`` of the epochs. ``explore_share`` is the share of trials
    and time that explores, the rest trains hopeful recipes in full: both from the start, and when so much is spent all
    that is left goes to promotions. ``leave_one_out`` measures at the end what each technique of the recipe bought, in
    at most a quarter of ``time``, or of what a search without that limit took. ``time`` is that of the whole command,
    loading and the answer included.

    ``measure_time`` is how long a trial's artifact and the base are timed side by side; the rows of the final table
    are timed 3.3 times as long. More makes the intervals narrower, for instance on a busy machine. ``cache_gb`` bounds
    what the run folder keeps of trained models and of the teacher's answers; what is gone is computed again.

    ``workers``: trials that run at once on this machine, each with its share of the cores. ``auto``: as many as train
    fastest together, by measurement, in a search that has a ``time``; else one, for with several it depends on which
    ends first what is tried next.

    ``proposer``: who says what is tried next, by its name (:mod:`sousvit.search.proposers`). ``auto`` weighs recipes by
    what they should add where that applies, and samples by TPE, or by NSGA-II in searches of 1,000 trials and more.

    ``without``: what the search does without, for comparisons. ``starters`` are recipes that are tried before the
    proposer knows anything; ``gates`` reject by shape, and what a finished recipe beats (limits that are measured
    before the training still do); ``variants`` are other deployments of recovered models, and recipes that an untrained
    evaluation showed to do without their recovery, which are also ``unrecovered`` alone.

    ``trackers``: tools that follow the trials (:mod:`sousvit.search.trackers`): mlflow, tensorboard, wandb.
    """

    trials: int = Field(default=100, ge=1, le=MOST_TRIALS)
    time: Duration | None = None
    seed: int = Field(default=0, ge=0, lt=2**31)
    trial_timeout: Duration = 3600.0
    trial_memory_gb: float | None = Field(default=None, gt=0, le=MOST_GB)
    explore_fidelity: float = Field(default=0.0, ge=0, le=1)
    eta: float = Field(default=4.0, ge=1.5, le=1000)
    explore_share: float = Field(default=0.45, gt=0, le=1)
    confidence: float = Field(default=0.9, ge=0.5, lt=1)
    confirm: float = Field(default=CONFIRM, ge=0, le=0.8)
    leave_one_out: bool = True
    measure_time: Duration = 1.2
    workers: Literal["auto"] | int = "auto"
    cache_gb: float = Field(default=10.0, gt=0, le=MOST_GB)
    proposer: str = "auto"
    without: tuple[str, ...] = ()
    trackers: tuple[str, ...] = ()

    @field_validator("workers")
    @classmethod
    def _some_workers(cls, value: str | int) -> str | int:
        if isinstance(value, int) and not 1 <= value <= MOST_WORKERS:
            raise UserError("workers must be a number of processes, or auto", value, f"use 1 to {MOST_WORKERS}")
        return value

    @field_validator("proposer")
    @classmethod
    def _known_proposer(cls, value: str) -> str:
        if value not in PROPOSERS:
            raise UnknownNameError("proposer", value, PROPOSERS.names())
        return value

    @field_validator("without")
    @classmethod
    def _known_levers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in LEVERS:
                raise UnknownNameError("what a search may do without", name, LEVERS)
        return value

    @field_validator("trackers")
    @classmethod
    def _known_trackers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in TRACKERS:
                raise UnknownNameError("tracker", name, TRACKERS.names())
        return tuple(dict.fromkeys(value))


class RayOptions(Checked):
    """The Ray cluster that runs the trials, and what one trial takes of it.

    ``address``: a cluster's (``auto`` for the one this machine belongs to); without it, and without ``RAY_ADDRESS`` in
    the environment, one is started on this machine for this search only.
    A trial takes ``cpus``, ``gpus`` and any other ``resources`` by name; ``workers`` bounds how many run at once.
    ``storage`` (a path or a URI such as ``s3://...``) carries artifacts and cache entries where workers do not see the
    run folder. A trial whose worker or node is lost is run again up to ``max_failures`` times.
    """

    address: str | None = None
    cpus: float = Field(default=1.0, gt=0, le=MOST_OF_CLUSTER)
    gpus: float = Field(default=0.0, ge=0, le=MOST_OF_CLUSTER)
    resources: dict[str, float] = Field(default={})
    workers: int | None = Field(default=None, ge=1, le=MOST_OF_CLUSTER)
    storage: str | None = None
    max_failures: int = Field(default=3, ge=0, le=1000)


class Budget(Checked):
    """The user's request.

    With several ``targets``, figures are the first one's unless they name another: ``latency@phone``. A recipe has one
    runtime, which all targets must allow. ``plugins`` names a user's own classes by kind, as ``file.py:ClassName`` or
    ``package.module:ClassName``.
    ``limits`` maps an objective (or its ``_ratio`` / ``_drop`` form) to a number, with or without the unit.
    ``optimize`` is a list of objectives, whose front the search looks for. ``prefer`` says which recipe of the front is
    the answer: a name or a list of what counts most, or weights, see :meth:`weights`. ``task`` need not be said, the
    model knows it; said, it is checked.
    """

    model: ModelSpec
    data: DataSpec
    task: Task | None = None
    targets: tuple[Target, ...] = Field(default=(Target(),), min_length=1)
    limits: dict[str, float | str] = Field(default={})
    optimize: tuple[str, ...]
    prefer: dict[str, float] = Field(default={})
    space: str | dict[str, Any] = "default"
    search: SearchLimits = SearchLimits()
    ray: RayOptions | None = None
    plugins: dict[str, tuple[str, ...]] = Field(default={"objectives": ()})

    @field_validator("targets", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        entries = value if isinstance(value, list | tuple) else [value]
        return [load_target(entry) if isinstance(entry, str | Path) else entry for entry in entries]

    @field_validator("targets")
    @classmethod
    def _go_together(cls, value: tuple[Target, ...]) -> tuple[Target, ...]:
        labels = [target.label for target in value]
        if len(set(labels)) != len(labels):
            raise UserError("targets of one search have different names", labels, "add name: to each")
        if not _shared_runtimes(value):
            raise UserError("targets of one search share a runtime", "none in common", "run one search a target")
        return value

    @model_validator(mode="before")
    @classmethod
    def _weights_in_one_place(cls, value: Any) -> Any:
        """Earlier versions wrote weights as ``optimize: {latency: 2, size: 1}``."""
        if not isinstance(value, Mapping) or not isinstance(value.get("optimize"), Mapping):
            return value
        optimize, prefer = value["optimize"], value.get("prefer")
        if prefer:
            raise UserError("weights stand in prefer", f"{dict(optimize)} in optimize, too", "list names in optimize")
        is_default = all(weight == 1 for weight in optimize.values())
        return {**value, "optimize": list(optimize), "prefer": {} if is_default else dict(optimize)}

    @field_validator("optimize", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        names = [value] if isinstance(value, str) else value
        if not names:
            raise UserError("optimize names at least one objective", value, "add for instance optimize: [latency]")
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise UserError("optimize lists names", value, "write optimize: [latency], and weights in prefer")
        if len(set(names)) != len(names):
            raise UserError("optimize names an objective once", names, "remove the repetition")
        return names

    @field_validator("prefer", mode="before")
    @classmethod
    def _preference(cls, value: Any) -> Any:
        return read_preference(value)

    @model_validator(mode="after")
    def _known_limits(self) -> Budget:
        labels = [target.label for target in self.targets]
        for name in self.prefer:
            if name not in self.optimize:
                optimize = f"add it to optimize: [{', '.join(self.optimize)}]"
                raise UserError("prefer names what is optimised", name, optimize)
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

    @classmethod
    def read(cls, path: str | Path, data_root: Path | None = None, **search: Any) -> Budget:
        """The budget in a YAML file; paths in it are relative to it.

        Args:
            data_root: where relative paths of data start instead.
            search: what the file's ``search`` section is to say instead, such as ``trials=50``; None leaves it.

        Raises:
            UserError: anything wrong, in one line.
        """
        path = Path(path)
        value = read_yaml(path)
        given = {name: entry for name, entry in search.items() if entry is not None}
        if given and isinstance(value.get("search") or {}, dict):
            value["search"] = {**(value.get("search") or {}), **given}
        return make_budget(value, path.parent, str(path), data_root)

    @property
    def target(self) -> Target:
        """The first target: what figures without a target's name are of."""
        return self.targets[0]

    @property
    def runtimes(self) -> tuple[str, ...]:
        """What a recipe may be deployed in, and every target runs, in the first one's order."""
        return _shared_runtimes(self.targets)

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
    def weights(self) -> dict[str, float]:
        """The weight of each optimised objective in the choice of the answer.

        By default all weigh 1. What ``prefer`` names weighs what it says there, 1 where it says no number; the others
        weigh a tenth of the least of these, so that they decide between recipes that are nearly alike otherwise.
        """
        others = OTHERS_SHARE * min(self.prefer.values()) if self.prefer else 1.0
        return {name: self.prefer.get(name, others) for name in self.optimize}

    def goals(self, base: Mapping[str, Measurement] | None = None) -> Goals:
        """What results are held against; preferences count gains over the ``base``'s figures."""
        return Goals(self.hard_limits, self.weights, base)

    @property
    def identity(self) -> str:
        """Hash of everything that decides what a trial's result means; trials and time may change on resume."""
        earlier = set() if self.search.confirm else {"confirm"}  # runs of earlier versions held nothing back
        left_out: Any = {
            "ray": True,
            "prefer": True,  # it is part of the weights
            "search": {"trials", "time", "leave_one_out", "explore_share", "without", "trackers"} | earlier,
            "targets": {"__all__": REACHING},
            # Runs of earlier versions knew none of these.
            "model": {"expected_accuracy"}
            | {name for name in ("factory", "preprocess") if getattr(self.model, name) is None},
        }
        plain = self.model_dump(mode="json", exclude=left_out)
        return content_hash({**plain, "optimize": self.weights})


def read_preference(value: Any) -> dict[str, float]:
    """The weights that a written preference gives: ``latency``, ``[latency, size]`` or ``{latency: 2, size: 1}``.

    Raises:
        UserError: neither a name, nor a list of names, nor weights above 0.
    """
    if value is None:
        return {}
    weights = dict.fromkeys([value], 1.0) if isinstance(value, str) else value
    if isinstance(weights, list | tuple):
        if not all(isinstance(name, str) for name in weights) or len(set(weights)) != len(weights):
            raise UserError("prefer lists names, each once", value, "write prefer: latency, or [latency, size]")
        weights = dict.fromkeys(weights, 1.0)
    if not isinstance(weights, Mapping):
        raise UserError("prefer is a name, a list or weights", value, "write for instance prefer: latency")
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            action = "write for instance prefer: {latency: 2, size: 1}"
            raise UserError("a weight of prefer is a positive number", f"{name}: {weight}", action)
    return {str(name): float(weight) for name, weight in weights.items()}


def _shared_runtimes(targets: Sequence[Target]) -> tuple[str, ...]:
    """What every target runs the files of, in the first one's order."""
    return tuple(name for name in targets[0].artifacts if all(name in other.artifacts for other in targets))


def open_space(budget: Budget, shape: ModelShape) -> tuple[Space, dict[str, str]]:
    """The budget's space on a base of ``shape``, and why techniques were left out."""
    from sousvit.spaces.space import make_space, read_space

    has_images = budget.data.kind != "none"
    return make_space(read_space(budget.space), shape, budget.runtimes, has_images)


def require_sound(budget: Budget) -> None:
    """Check what else the text alone tells of a budget to search by, before anything is loaded, measured or made.

    Raises:
        UserError: a wrong value in the space, no test split, or a package that the proposer needs is missing.
    """
    from sousvit.spaces.space import read_space

    read_space(budget.space)
    require_test_path(budget.data)
    PROPOSERS.get(budget.search.proposer).require()


def make_budget(value: Mapping[str, Any], folder: Path, where: str = "budget", data_root: Path | None = None) -> Budget:
    """A checked budget from plain values, with its plug-ins loaded and its paths made absolute.

    Paths start in ``folder``, those of data in ``data_root`` where it is given.
    """
    value = dict(value)
    value["plugins"] = load_plugins(value.get("plugins") or {}, folder)
    if "targets" in value:
        value["targets"] = _targets(value["targets"], folder, f"{where}: targets")
    budget = validated(Budget, value, where)
    space = budget.space
    if isinstance(space, str) and space.endswith((".yaml", ".yml")):
        space = read_yaml(folder / space)
    space = located(space, folder) if isinstance(space, dict) else space
    data = resolve_data(budget.data, data_root or folder)
    resolved = {"model": budget.model.resolved(folder), "data": data, "space": space}
    budget = budget.model_copy(update=resolved)
    _check_task(budget)
    return budget


def read_budget(given: Budget | str | Path | Mapping[str, Any]) -> Budget:
    """A budget as a caller gives it (a value, a file, plain values), with its plug-ins loaded and paths absolute."""
    if isinstance(given, str | Path):
        return Budget.read(given)
    if not isinstance(given, Budget | Mapping):
        rule = "a budget is a YAML file, a mapping, or sousvit.Budget(...)"
        raise UserError(rule, repr(given), "give one of these, or call sousvit.compress")
    return make_budget(given.model_dump(mode="json") if isinstance(given, Budget) else given, Path())


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
    if len(entries) > MOST_TARGETS:
        raise UserError(f"a search has at most {MOST_TARGETS} targets", len(entries), "run several searches")
    return [
        load_target(entry, folder) if isinstance(entry, str | Path) else make_target(entry, folder, where)
        for entry in entries
    ]
