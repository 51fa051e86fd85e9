"""The contract of a technique: one way to compress, with its parameters, needs, conflicts and handler.

A technique is a class with a frozen pydantic ``Config`` and one of two handlers:

* :class:`ModelTechnique` changes the PyTorch model. It must work twice: *with* calibration data (scores
  from data, weights repaired) and *without* (``context.calibration is None``: same shapes, first units kept),
  because gates measure the untrained structure, and stored weights are loaded into a skeleton.
* :class:`DeployTechnique` decides how the exported graph becomes the artifact of a runtime.

Ours are listed in techniques/__init__.py. A plug-in is named in a budget as
``plugins: {techniques: [my_file.py:Mine]}``, or an entry point in the group ``sousvit.techniques``.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from sousvit.errors import UserError
from sousvit.registry import Registry
from sousvit.spaces.context import Context
from sousvit.spaces.export.exporter import EXPORTERS, Deployment, get_exporter
from sousvit.spaces.shape import ModelShape, OtherShape
from sousvit.spaces.techniques import BUILTIN

if TYPE_CHECKING:
    from torch import nn

    from sousvit.spaces.export.artifact import Artifact


class Stage(IntEnum):
    """When a step acts; the steps of a recipe never go back a stage."""

    IMAGES = -2  #: what the other steps look at, where there is no data
    BASE = -1  #: the base itself, before anything is cut
    ARCHITECTURE = 0  #: another network altogether
    INPUT = 1  #: what the model reads: patches
    STRUCTURE = 2  #: widths, heads, depth
    ATTENTION = 3  #: what takes the place of softmax attention
    TOKENS = 4  #: tokens inside the network
    WEIGHTS = 5  #: single weights
    RECOVERY = 6  #: training
    DEPLOY = 7  #: numbers and file


class StepConfig(BaseModel):
    """Base of every technique's parameters: typed, frozen, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


#: The values a search may choose from, by parameter name.
Choices = Mapping[str, tuple[Any, ...]]


class Technique(ABC):
    """What both kinds share.

    Class attributes:
        name: as written in recipes.
        stage: when it acts.
        config: its parameters.
        summary: one line for ``sousvit list techniques``.
        source: the paper or tool the method comes from.
        conflicts: names of techniques that cannot stand in the same recipe.
        packages: importable packages it needs besides ours, e.g. ``("openvino", "nncf")``.
        trains: whether it updates weights by gradient (such a step has a fidelity).
        compresses: whether it makes the model cheaper; others repair.
        supplies: whether it leaves the model as it is and gives the other steps their images.
        uses_images: whether what it does depends on images; a recipe none of whose steps does needs none made for it.
        listed: whether :func:`techniques` names it; a stand-in that changes no model is found by name only.
        any_model: whether it works on models that are no plain Vision Transformer: its methods are then given
            any ModelShape, otherwise a VitShape.
        needs_linear: whether it acts on linear layers besides the classifier, and on nothing else.
        rank: place among the techniques of its stage in a search; names decide between equals.
        movable_past: techniques of its stage that a search may also let act before it.
        needs_equal_blocks: whether all blocks must be alike, so that no step may decide widths by data before.
        structural: of a technique that trains, whether its untrained form already decides latency and size.
        prepares: whether it trains the base itself, once for all recipes that begin with it. It has no fidelity, and
            stays in a recipe only where every other model step can be cut from what it prepared.
    """

    name: ClassVar[str]
    stage: ClassVar[Stage]
    config: ClassVar[type[StepConfig]]
    summary: ClassVar[str]
    source: ClassVar[str]
    conflicts: ClassVar[frozenset[str]] = frozenset()
    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    trains: ClassVar[bool] = False
    structural: ClassVar[bool] = False
    prepares: ClassVar[bool] = False
    needs_equal_blocks: ClassVar[bool] = False
    rank: ClassVar[int] = 0
    movable_past: ClassVar[frozenset[str]] = frozenset()
    compresses: ClassVar[bool] = True
    supplies: ClassVar[bool] = False
    uses_images: ClassVar[bool] = True
    listed: ClassVar[bool] = True
    any_model: ClassVar[bool] = False
    needs_linear: ClassVar[bool] = False

    @abstractmethod
    def choices(self, shape: Any) -> Choices:
        """Values worth searching for a base of this shape; an empty mapping value tuple means it does not fit."""

    def misfit(self, shape: ModelShape) -> str | None:
        """Why the technique does not work on such a model (one phrase), or None if it does."""
        if isinstance(shape, OtherShape) and not self.any_model:
            return f"{shape.name} is no plain Vision Transformer"
        if self.needs_linear and isinstance(shape, OtherShape) and shape.num_linear == 0:
            return "no linear layers besides the classifier"
        return self.unmet_need(shape)

    def unmet_need(self, shape: Any) -> str | None:
        """What a technique's own needs add to :meth:`misfit`."""
        return None

    def is_identity(self, config: Any, shape: Any) -> bool:
        """Whether the step would change nothing on this shape; canonical recipes drop such steps."""
        return False

    def normalised(self, config: Any, shape: Any) -> Any:
        """``config`` with the parameters that have no effect on this shape, or beside the others, at their defaults."""
        return config

    def shapes_by_data(self, config: Any) -> bool:
        """Whether widths depend on data: then the shape known beforehand is that of a uniform stand-in."""
        return False

    def bytes_per_weight(self, config: Any) -> float:
        """Average bytes that a matrix weight takes in the file; a lower bound, for the analytic gate."""
        return 4.0

    def nested(self, config: Any) -> Any | None:
        """``config`` as it acts on an elastic base: what then has no effect at its default. None: it needs a plain one.

        With :attr:`Context.nested` a technique keeps the first units, with data as in a skeleton; what it repairs
        besides, it repairs as ever.
        """
        return None

    @property
    def recovers(self) -> bool:
        """Whether it only trains: latency and size are the same without it."""
        return self.trains and not self.structural

    @property
    def tells_untrained(self) -> bool:
        """Whether a model that it changed (and repaired) is worth judging before any training."""
        return self.compresses and not self.trains and self.stage is not Stage.ARCHITECTURE

    def missing_packages(self) -> list[str]:
        """Of :attr:`packages`, what is not installed."""
        return [package for package in self.packages if importlib.util.find_spec(package) is None]

    def suits(self, runtime: str) -> bool:
        """Whether artifacts of ``runtime`` can be made with it."""
        return True

    @property
    def runtimes(self) -> list[str]:
        """The runtimes that it suits, plug-ins included."""
        return [name for name in EXPORTERS.names() if self.suits(name)]

    def excludes(self, other: Technique) -> bool:
        """Whether the two cannot stand in the same recipe."""
        return other.name in self.conflicts or self.name in other.conflicts


class ModelTechnique(Technique):
    """Changes the PyTorch model."""

    def leaves_plain(self, config: Any) -> bool:
        """Whether the result is still a plain Vision Transformer."""
        return True

    def surroundings(self, config: Any, context: Context) -> Context:
        """What the recipe's steps work with; only a technique that ``supplies`` changes it."""
        return context

    @abstractmethod
    def reshape(self, shape: Any, config: Any) -> Any:
        """The shape that :meth:`apply` leaves; exact, and fast (no tensors).

        Raises:
            UserError: the parameters do not fit the shape.
        """

    @abstractmethod
    def apply(self, model: nn.Module, config: Any, context: Context) -> nn.Module:
        """The changed model, in eval mode on the CPU; the given one may be changed in place.

        Raises:
            UserError: the parameters do not fit the model.
            TrialError: the step failed for numerical reasons.
        """


class DeployTechnique(Technique):
    """Makes the artifact of a runtime: prepares the PyTorch model, then finishes the exported file.

    Class attributes:
        deployments: how it does so, by runtime; an :class:`Exporter` may add its own runtime to them.
    """

    deployments: ClassVar[Mapping[str, Deployment]]
    stage: ClassVar[Stage] = Stage.DEPLOY
    any_model: ClassVar[bool] = True

    def prepare(self, model: nn.Module, config: Any, context: Context) -> nn.Module:
        """The model to export; ``model`` is a copy that may be changed in place.

        Raises:
            TrialError: the step failed for numerical reasons.
        """
        return model

    def deployment(self, runtime: str) -> Deployment | None:
        """How the artifact of ``runtime`` is made; None where it cannot be."""
        if runtime in self.deployments:
            return self.deployments[runtime]
        added = get_exporter(runtime).deployments.get(self.name)
        return self.deployments.get(added) if isinstance(added, str) else added

    def suits(self, runtime: str) -> bool:
        return self.deployment(runtime) is not None

    def deploy(self, graph: Path, runtime: str, config: Any, context: Context, folder: Path) -> Artifact:
        """Write the artifact of ``runtime`` into ``folder`` from the float32 ``graph`` that its exporter wrote.

        Raises:
            UserError: it does not suit the runtime.
            TrialError: the tool failed on this graph.
        """
        require_suits(self, runtime)
        deployment = self.deployment(runtime)
        assert deployment is not None
        return deployment(graph, runtime, config, context, folder)


def require_suits(technique: Technique, runtime: str) -> None:
    """A technique and a runtime that go together.

    Raises:
        UnknownNameError: there is no such runtime.
        UserError: they do not; the message names runtimes that do.
    """
    if not technique.suits(runtime):
        action = f"use one of {', '.join(technique.runtimes)}"
        raise UserError(f"{technique.name} must suit the runtime", runtime, action)


def _check_plugin(found: type, where: str) -> None:
    action = f"correct {where}"
    if not issubclass(found, ModelTechnique | DeployTechnique):
        raise UserError("a technique is a ModelTechnique or a DeployTechnique", found.__name__, action)
    if issubclass(found, DeployTechnique) and not hasattr(found, "deployments"):
        raise UserError("a technique that deploys has a table deployments, by runtime", found.__name__, action)
    if not isinstance(found.stage, Stage):
        raise UserError("a technique's stage is a Stage", repr(found.stage), action)
    if not (isinstance(found.config, type) and issubclass(found.config, StepConfig)):
        raise UserError("a technique's config is a StepConfig class", repr(found.config), action)


TECHNIQUES: Registry[Technique] = Registry(
    "technique",
    "sousvit.techniques",
    BUILTIN,
    base=Technique,
    declares=("stage", "config", "summary", "source"),
    check=_check_plugin,
)


def place(technique: Technique) -> tuple[int, int, str]:
    """Sorts techniques in the order in which a search lets them act."""
    return technique.stage, technique.rank, technique.name


def techniques() -> Iterator[Technique]:
    """All registered techniques, plug-ins included, in stage order."""
    return iter(sorted((technique for technique in TECHNIQUES if technique.listed), key=place))


def get_technique(name: str) -> Technique:
    """The technique called ``name``.

    Raises:
        UnknownNameError: nothing has this name.
    """
    return TECHNIQUES.get(name)
