"""A trial, from proposal to record, and the figures of the uncompressed base that trials are compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal

from sousvit.files import content_hash
from sousvit.objectives.objective import Measurement
from sousvit.objectives.tasks.task import task_measured
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.technique import TECHNIQUES, Stage, get_technique, role_of

#: How a trial may end.
Ended = Literal["complete", "gated", "failed"]
Status = Ended | Literal["pending", "running"]


def encode(values: Mapping[str, Measurement]) -> dict[str, list[float | None]]:
    """Figures as plain ``[value, low, high]``."""
    return {name: [v.value, v.low, v.high] for name, v in values.items()}


def decode(plain: Mapping[str, Sequence[Any]]) -> dict[str, Measurement]:
    """The inverse of :func:`encode`."""
    return {name: Measurement(*entry) for name, entry in plain.items()}


#: Words for origins in runs of earlier versions.
EARLIER_ORIGINS = {"prior": "starter", "fanned": "variant"}


@dataclass(frozen=True)
class Trial:
    """A recipe judged at one fidelity, with its results; before that, one that waits for them.

    Attributes:
        key: recipe, fidelity and seed in one hash; a finished key is never paid again.
        recipe: plain values of the recipe.
        fidelity: share of the recovery epochs it gets; 1.0 is final, 0.0 judged before its recovery.
        status: ``pending``, then ``running``, then ``complete``, ``gated`` (a hard limit was violated before training)
            or ``failed``.
        values: figures by objective name, those measured before the trial ended.
        origin: who asked: ``proposed``, ``single`` (one technique), ``starter``, ``promoted``, ``variant`` (another
            deployment) or ``unrecovered`` (the recipe of an untrained evaluation, without its recovery); in a survey,
            the name of what is measured.
        number: the Optuna trial, or None where the engine asked.
        attempt: identifies the attempt that gives the result.
        seconds: wall time by part (gate, prepare, build, teacher, recover, export, judge).
        message: why it failed, or which limits gated it.
        artifact: folder name under ``artifacts/``, or "".
        source: the earlier run that measured it, where this one took it over; "" for a trial of its own.
    """

    key: str
    recipe: dict[str, Any]
    fidelity: float
    seed: int
    status: Status
    values: dict[str, Measurement] = field(default_factory=dict)
    origin: str = "proposed"
    number: int | None = None
    attempt: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    message: str = ""
    artifact: str = ""
    source: str = ""

    @classmethod
    def pending(cls, recipe: Recipe, fidelity: float, seed: int, origin: str = "proposed") -> Trial:
        """A trial that nobody has begun."""
        plain = recipe.to_dict()
        return cls(trial_key(plain, fidelity, seed), plain, fidelity, seed, "pending", origin=origin)

    def changed(self, **changes: Any) -> Trial:
        """The same recipe's trial with other fields; what is known of the recipe stays known."""
        found = replace(self, **changes)
        found.__dict__.update({name: self.__dict__[name] for name in _OF_RECIPE if name in self.__dict__})
        return found

    def promoted(self, fidelity: float) -> Trial:
        """The pending trial of the same recipe at a higher fidelity.

        As it stands in the archive: one of an earlier version may lack parameters that have come since.
        """
        key = trial_key(self.recipe, fidelity, self.seed)
        return Trial(key, self.recipe, fidelity, self.seed, "pending", origin="promoted")

    @cached_property
    def parsed(self) -> Recipe:
        """The recipe as a checked value."""
        return Recipe.from_dict(self.recipe)

    @property
    def is_final(self) -> bool:
        """Whether it counts for the answer: complete, at full fidelity."""
        return self.status == "complete" and self.fidelity >= 1.0

    @cached_property
    def techniques(self) -> tuple[str, ...]:
        """Names of the recipe's steps."""
        return tuple(step["technique"] for step in self.recipe["steps"])

    @cached_property
    def is_single(self) -> bool:
        """Whether its recipe is one compression technique (with or without recovery) and nothing else.

        A step that is no technique known here (of a plug-in that is not loaded, or a row of a table) counts as one.
        """
        roles = map(role_of, self.techniques)
        return sum(role is None or role.compresses for role in roles) == 1

    @cached_property
    def recipe_key(self) -> str:
        """Identity of the recipe."""
        return content_hash(self.recipe)

    @cached_property
    def model_key(self) -> str:
        """Identity of the recipe's model before deployment: siblings share its recovered weights."""
        return recipe_model_key(self.recipe)

    @cached_property
    def deployment(self) -> str:
        """How its model is deployed, see :attr:`sousvit.spaces.recipe.Recipe.deployment`."""
        runtime, steps = str(self.recipe["runtime"]), self.recipe["steps"]
        return f"{runtime}:{steps[-1]['technique']}" if _is_deployed(steps) else runtime

    def get(self, name: str) -> float:
        """The value of an objective, NaN where it was not measured."""
        found = self.values.get(name)
        return math.nan if found is None else found.value

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: getattr(self, name) for name in _TRIAL_FIELDS} | {"values": encode(self.values)}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Trial:
        """The inverse of :meth:`to_dict`; keys of later versions are ignored."""
        kept = {name: plain[name] for name in _TRIAL_FIELDS if name in plain}
        kept["values"] = decode(plain["values"])
        kept["origin"] = EARLIER_ORIGINS.get(kept["origin"], kept["origin"])
        return cls(**kept)


#: What follows from the recipe alone, and is kept once it was asked for.
_OF_RECIPE = ("parsed", "techniques", "is_single", "recipe_key", "model_key", "deployment")
#: Looked up for every trial of a log.
_TRIAL_FIELDS = tuple(entry.name for entry in fields(Trial))


def quality_of(values: Mapping[str, Measurement]) -> str:
    """Which figure says how good predictions are: the task's own, or ``agreement`` where there are no labels."""
    quality = task_measured(values).quality
    return "agreement" if quality not in values and "agreement" in values else quality


def word_of(values: Mapping[str, Measurement]) -> str:
    """What that figure is called in tables and plots: agreement with the base is never called top-1."""
    quality = quality_of(values)
    return quality if quality == "agreement" else task_measured(values).heading.removesuffix(" %")


@dataclass(frozen=True)
class BaseRecord:
    """The base model in ONNX Runtime fp32: its figures, its shape, and where they were measured.

    ``shape`` is the plain form of a :data:`sousvit.spaces.shape.ModelShape`; ``export_error`` is the relative error of
    the exported predictions; ``fingerprint`` is of its weights and of the data that the search sees; ``timings`` are
    the plain forms of its :class:`sousvit.objectives.timing.Timing` by target. ``machine`` are the facts of the first
    target's device, with those of all by target under ``devices``. ``num_unseen`` is how many validation images no
    trial is judged on. ``epoch_seconds`` is what a training epoch of the base takes here, 0 where nobody asked.
    ``class_names`` are what the labels mean, in their order; empty where nothing says it. ``seconds`` is the wall time
    of its own parts (load, export, timing, judge), and ``images`` the size of the data's parts: what trials cost before
    one has shown it. ``workers`` is how many trainings side by side were fastest on the first machine, 0 where nobody
    asked; ``epoch_seconds`` is that of one of them.
    """

    values: dict[str, Measurement]
    shape: dict[str, Any]
    machine: dict[str, Any]
    export_error: float = 0.0
    fingerprint: str = ""
    timings: dict[str, dict[str, Any]] = field(default_factory=dict)
    num_unseen: int = 0
    epoch_seconds: float = 0.0
    class_names: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    workers: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "values": encode(self.values),
            "shape": self.shape,
            "machine": self.machine,
            "export_error": self.export_error,
            "fingerprint": self.fingerprint,
            "timings": self.timings,
            "num_unseen": self.num_unseen,
            "epoch_seconds": self.epoch_seconds,
            "class_names": list(self.class_names),
            "seconds": self.seconds,
            "images": self.images,
            "workers": self.workers,
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> BaseRecord:
        """The inverse of :meth:`to_dict`; keys of other versions are ignored."""
        known = {entry.name for entry in fields(cls)}
        kept = {name: value for name, value in plain.items() if name in known}
        names = tuple(plain.get("class_names", ()))
        return cls(**{**kept, "values": decode(plain["values"]), "class_names": names})


def recipe_model_key(recipe: dict[str, Any]) -> str:
    """Identity of a recipe's model before deployment."""
    steps = recipe["steps"]
    return content_hash(steps[: len(steps) - _is_deployed(steps)])


def _is_deployed(steps: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last step is a deployment."""
    last = str(steps[-1]["technique"]) if steps else ""
    return last in TECHNIQUES and get_technique(last).stage is Stage.DEPLOY


def trial_key(recipe: dict[str, Any], fidelity: float, seed: int) -> str:
    """Identity of what a trial pays for."""
    return content_hash(recipe, float(fidelity), seed)
