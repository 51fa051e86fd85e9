"""The contract of a technique: one way to make a model cheaper, or to help those that do.

A technique is a declaration (parameters, role, needs), what follows from parameters and a model's shape, and an action
of one of two kinds:

* :class:`ModelTechnique` changes the PyTorch model. It works twice: *with* calibration images (scores from data,
  weights repaired) and *without* (``context.calibration is None``: the same shapes, the first units kept), because
  gates measure the untrained structure, and stored weights are loaded into a skeleton.
* :class:`DeployTechnique` makes the artifact of a runtime from the exported graph.

For instance ``prune_mlp`` has the parameter ``keep``, says that it compresses a plain Vision Transformer, counts the
hidden units that stay, and removes the others. Ours are listed in techniques/__init__.py. A plug-in is named in a
budget as ``plugins: {techniques: [my_file.py:Mine]}``, or is an entry point in the group ``sousvit.techniques``; it is
held to the contract by :func:`sousvit.check_technique`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from enum import Enum, IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sousvit.checked import Checked
from sousvit.errors import UserError
from sousvit.registry import Registry
from sousvit.spaces.context import Context, Start
from sousvit.spaces.export.exporter import EXPORTERS, Deployment, get_exporter
from sousvit.spaces.needs import Needs
from sousvit.spaces.shape import ModelShape
from sousvit.spaces.techniques import BUILTIN

if TYPE_CHECKING:
    from torch import nn

    from sousvit.spaces.export.artifact import Artifact


class Stage(IntEnum):
    """Moment at which a step acts; the steps of a recipe never go back a stage."""

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


class StepConfig(Checked):
    """Base of every technique's parameters: typed, frozen, no unknown keys."""


#: The values a search may choose from, by parameter name.
Choices = Mapping[str, tuple[Any, ...]]


class Role(Enum):
    """Purpose of a technique in a recipe."""

    COMPRESS = "compress"  #: makes the model cheaper without training, for instance ``prune_mlp``
    REPAIR = "repair"  #: wins accuracy back by training and leaves latency and size alone, as ``distill`` does
    TRAIN_AND_COMPRESS = "train-and-compress"  #: makes the model cheaper and trains it that way, as ``qat`` does
    PREPARE = "prepare"  #: trains the base once, for all recipes that begin with it, as ``elastic`` does
    SUPPLY = "supply"  #: gives the other steps their images and changes no model, as ``synthesize`` does
    ASSIST = "assist"  #: makes nothing cheaper, but lets other steps do better, as ``distill_token`` does

    @property
    def compresses(self) -> bool:
        """Whether the model gets cheaper."""
        return self in (Role.COMPRESS, Role.TRAIN_AND_COMPRESS)

    @property
    def trains(self) -> bool:
        """Whether weights are updated by gradient, for as long as the trial's fidelity says."""
        return self in (Role.REPAIR, Role.TRAIN_AND_COMPRESS)

    @property
    def changes_structure(self) -> bool:
        """Whether the model's latency and size depend on it."""
        return self not in (Role.REPAIR, Role.PREPARE, Role.SUPPLY)


class Technique(ABC):
    """Base of both kinds: the declaration, and what follows from parameters and a shape.

    Class attributes:
        name: as written in recipes.
        stage: when it acts.
        role: its purpose in a recipe.
        config: its parameters.
        needs: models, packages and images that it works with.
        summary: one line for ``sousvit list techniques``.
        source: the paper or tool the method comes from.
        rank: place among the techniques of its stage in a search; names decide between equals.
        movable_past: techniques of its stage that a search may also let act before it.
        scale: the parameter that says how much, where another one says what or nothing at all.
        sources: parameters that name checkpoints, in any form; relative paths in a budget start in its folder.
        instead_of: parameters that, where a space lists them, take the place of another one.
    """

    name: ClassVar[str]
    stage: ClassVar[Stage]
    role: ClassVar[Role] = Role.COMPRESS
    config: ClassVar[type[StepConfig]]
    needs: ClassVar[Needs] = Needs()
    summary: ClassVar[str]
    source: ClassVar[str]
    rank: ClassVar[int] = 0
    movable_past: ClassVar[frozenset[str]] = frozenset()
    scale: ClassVar[str] = ""
    sources: ClassVar[frozenset[str]] = frozenset()
    instead_of: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def choices(self, shape: Any) -> Choices:
        """Values worth searching on a base of this shape, by parameter.

        One of them changes nothing (see :meth:`is_identity`), so that a search can leave the technique out.
        """

    def misfit(self, shape: ModelShape) -> str | None:
        """Why the technique does not work on such a model (one phrase), or None if it does."""
        return self.needs.misfit(shape) or self.unmet_need(shape)

    def unmet_need(self, shape: Any) -> str | None:
        """What the technique asks of a shape besides its :attr:`needs` and does not find (one phrase), or None."""
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

    def is_asked(self, parameter: str, chosen: Mapping[str, Any]) -> bool:
        """Whether a search asks for ``parameter`` beside those that are ``chosen`` already, in the order of choices."""
        return True

    def epochs_of(self, config: Any, share: float) -> float:
        """Epochs of its training in full, of a model that costs ``share`` of the base's multiply-accumulates."""
        return 0.0

    def leaves_linear(self, config: Any) -> bool:
        """Whether the result may have linear layers besides the classifier."""
        return True

    def start_of(self, config: Any) -> Start:
        """Of the weights that a model has after the step."""
        return Start.BASE

    def family_of(self, config: Any) -> str:
        """The kind of network that takes the base's place; "" where that stays."""
        return ""

    def nested(self, config: Any) -> Any | None:
        """``config`` as it acts on an elastic base; None where the technique needs a plain base.

        Parameters that have no effect there stand at their defaults. Where :attr:`Context.nested` is set, a technique
        keeps the first units, with data as without, and repairs the rest as it always does.
        """
        return None

    @property
    def tells_untrained(self) -> bool:
        """Whether a model that it changed (and repaired) is worth judging before any training."""
        return self.role is Role.COMPRESS and self.stage is not Stage.ARCHITECTURE

    def suits(self, runtime: str) -> bool:
        """Whether artifacts of ``runtime`` can be made with it."""
        return True

    @property
    def runtimes(self) -> list[str]:
        """The runtimes that it suits, plug-ins included."""
        return [name for name in EXPORTERS.names() if self.suits(name)]

    def excludes(self, other: Technique) -> bool:
        """Whether the two cannot stand in the same recipe."""
        return other.name in self.needs.conflicts or self.name in other.needs.conflicts


class ModelTechnique(Technique):
    """A technique that changes the PyTorch model."""

    def leaves_plain(self, config: Any) -> bool:
        """Whether the result is still a plain Vision Transformer."""
        return True

    def surroundings(self, config: Any, context: Context) -> Context:
        """The context of a recipe's steps; only a technique that makes images, as ``synthesize`` does, changes it."""
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
    """A technique that makes the artifact of a runtime: it prepares the PyTorch model and finishes the exported file.

    Class attributes:
        deployments: how it does so, by runtime; an :class:`Exporter` may add its own runtime to them.
        linear_only: runtimes for which it acts on linear layers besides the classifier, and on nothing else.
    """

    deployments: ClassVar[Mapping[str, Deployment]]
    linear_only: ClassVar[frozenset[str]] = frozenset()
    stage: ClassVar[Stage] = Stage.DEPLOY
    needs: ClassVar[Needs] = Needs(plain_vit=False)

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
    """Check that a technique suits a runtime.

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
    for key, kind in (("stage", Stage), ("role", Role), ("needs", Needs)):
        if not isinstance(getattr(found, key), kind):
            raise UserError(f"a technique's {key} is of the class {kind.__name__}", repr(getattr(found, key)), action)
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
    """Sort key of the order in which a search lets techniques act."""
    return technique.stage, technique.rank, technique.name


def techniques() -> Iterator[Technique]:
    """All registered techniques, plug-ins included, in stage order."""
    return iter(sorted(TECHNIQUES, key=place))


def role_of(name: str) -> Role | None:
    """The role of the technique called ``name``; None where nothing has this name."""
    return TECHNIQUES.get(name).role if name in TECHNIQUES else None


def get_technique(name: str) -> Technique:
    """The technique called ``name``.

    Raises:
        UnknownNameError: nothing has this name.
    """
    return TECHNIQUES.get(name)
