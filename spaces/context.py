"""Context of a step: images, a teacher, a deadline, decisions of the steps before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import nn

    from sousvit.data import ImageSet
    from sousvit.spaces.training.checkpoint import Checkpoint


class Start(Enum):
    """What the weights of a recipe's model are before its training."""

    BASE = "base"  #: those of the base that are left
    PRETRAINED = "pretrained"  #: another network's, trained on other images
    RANDOM = "random"  #: nothing worth keeping


class Teaching(Protocol):
    """The base model as a teacher: what it says of the training images, view by view."""

    def __call__(self, augmentation: str, seed: int, view: int) -> torch.Tensor:
        """Predictions ``[N, ...]`` on one view of the training images."""
        ...

    def features(self, augmentation: str, seed: int, view: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Pooled features ``[N, width]`` and activation strengths ``[N, rows, columns]``, or None without a grid."""
        ...

    @property
    def feature_width(self) -> int:
        """Channels of the pooled features."""
        ...

    def on(self, images: ImageSet) -> torch.Tensor:
        """Predictions ``[N, ...]`` on other images, as they are."""
        ...


class Statistics(Protocol):
    """A store of what all trials need to know of the same model; see :mod:`sousvit.spaces.calibration.kept`."""

    def read(self, what: str, model: nn.Module, context: Context) -> list[torch.Tensor] | None:
        """The statistic ``what`` of ``model``, if it is known."""
        ...

    def write(self, what: str, model: nn.Module, context: Context, values: Sequence[torch.Tensor]) -> None:
        """Keep it."""
        ...


@dataclass(frozen=True)
class StepImages:
    """Images that were synthesised for the steps of a recipe.

    Attributes:
        train: for recovery.
        calibration: for scores and repair.
        teacher: what the base says of ``train``.
    """

    train: ImageSet
    calibration: ImageSet
    teacher: Teaching


@dataclass(frozen=True)
class Context:
    """Everything that a step may use besides the model.

    Attributes:
        normalise: uint8 ``[B, C, H, W]`` to the model's float input.
        calibration: training images for scores and repair, or None for a skeleton (shapes only).
        train: training images for recovery.
        teacher: what the base says of ``train``.
        fidelity: share of the recovery epochs that this trial gets, in [0, 1].
        seed: of everything random.
        deadline: ``time.monotonic()`` value after which a step must stop, or None.
        progress: called with (what, done, total).
        precision: of recovery training.
        seconds: filled with the wall time of the steps: ``build``, and ``recover`` of those that train.
        decisions: what steps decided from data (widths, ranks), by technique; a skeleton of the same model is given
            them back.
        checkpoint: where a long training of the present step keeps its state on the way, or None.
        synthesise: returns the images that a ``synthesize`` step describes; None where the user has images, and for a
            skeleton.
        input_shape: ``(C, H, W)`` of what the model takes, where there are no calibration images to tell; None if
            nobody knows.
        start: of the model's weights.
        base_macs: multiply-accumulates of the base for one image, 0 if nobody knows; training is counted in them.
        statistics: keeps what trials share, or None.
    """

    normalise: Callable[[torch.Tensor], torch.Tensor]
    calibration: ImageSet | None = None
    train: ImageSet | None = None
    teacher: Teaching | None = None
    fidelity: float = 1.0
    seed: int = 0
    deadline: float | None = None
    progress: Callable[[str, int, int], None] | None = None
    precision: str = "auto"
    seconds: dict[str, float] | None = None
    decisions: dict[str, Any] = field(default_factory=dict)
    checkpoint: Checkpoint | None = None
    synthesise: Callable[[Any], StepImages] | None = None
    input_shape: tuple[int, int, int] | None = None
    start: Start = Start.BASE
    base_macs: int = 0
    statistics: Statistics | None = None

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """``(C, H, W)`` of an image, if it is known."""
        images = self.calibration
        return self.input_shape if images is None else (images.channels, *images.size)

    @property
    def nested(self) -> Mapping[str, Any] | None:
        """What an elastic base decided, where the model is one: see :mod:`sousvit.spaces.techniques.elastic`."""
        return self.decisions.get(NESTED)

    def decide(self, technique: str, decision: Any) -> Any:
        """Note a decision that the shape of the model depends on; plain values (JSON)."""
        self.decisions[technique] = decision
        return decision

    def decided(self, technique: str, default: Any) -> Any:
        """The decision of the model that this skeleton stands for, or ``default``."""
        return self.decisions.get(technique, default)


#: Under this name an elastic base notes its decisions.
NESTED = "elastic"
