"""Recovery training by distillation from the base model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from sousvit.errors import UserError
from sousvit.spaces.context import Context, Start
from sousvit.spaces.needs import Needs
from sousvit.spaces.shape import ModelShape, OtherShape, VitShape
from sousvit.spaces.technique import Choices, ModelTechnique, Role, Stage, StepConfig
from sousvit.specs import OptimizerName, Policy

if TYPE_CHECKING:
    from torch import nn

    from sousvit.spaces.context import Teaching
    from sousvit.spaces.training.plan import Networks
    from sousvit.spaces.training.transfer import Transfer


#: A network with fewer multiply-accumulates trains faster by this power of them: smaller layers use a core less well.
#: Residual networks of 48, 7, 3 and 0.8 million beside a ViT of 180 gave 1.2, 0.9, 0.9 and 0.65 on one core, depthwise
#: ones less. It is no count of seconds, which would make of one recipe another on every machine.
SPEED_UP = 0.75
#: Epochs beyond which a small model gains little by more.
MOST_EPOCHS = 60
#: Learning rate of random weights, in units of that for weights that have learned.
RANDOM_RATE = 20.0
#: Weight decay of random weights, which have further to go.
RANDOM_DECAY = 0.2


class RecoveryConfig(StepConfig):
    """How weights learn from the base and from true labels. ``soft_weight`` and ``hard_weight`` are shares of the
    loss, the rest is the true label's cross entropy. ``repeats``: views of an image in one batch (repeated
    augmentation). ``optimizer: auto`` is AdamW; random weights learn by Muon, at :data:`RANDOM_RATE` times the learning
    rate.
    """

    learning_rate: float = Field(default=1e-3, gt=0)
    optimizer: OptimizerName | Literal["auto"] = "auto"
    soft_weight: float = Field(default=0.5, ge=0, le=1)
    hard_weight: float = Field(default=0.0, ge=0, le=1)
    temperature: float = Field(default=2.0, gt=0)
    augmentation: Policy = "crop_flip"
    num_views: int = Field(default=4, ge=1, le=1000)
    repeats: int = Field(default=1, ge=1, le=8)
    batch_size: int = Field(default=128, ge=1, le=65_536)

    @model_validator(mode="after")
    def _shares(self) -> RecoveryConfig:
        if self.soft_weight + self.hard_weight > 1:
            raise UserError(
                "soft_weight and hard_weight are shares of one loss",
                f"{self.soft_weight} + {self.hard_weight}",
                "sum at most 1",
            )
        return self


class TransferConfig(RecoveryConfig):
    """Besides, ``feature_weight`` and ``attention_weight`` add transfer losses. ``interpolate``: at the end, keep the
    weights between start and end that are closest to the base (:mod:`.interpolation`); not of another network's.
    """

    feature_weight: float = Field(default=0.0, ge=0)
    attention_weight: float = Field(default=0.0, ge=0)
    interpolate: bool = True


class DistillConfig(TransferConfig):
    """``passes``: what the training costs, in passes of the base over the training images: a model with a tenth of the
    base's multiply-accumulates learns for 5.6 epochs in each (see :data:`SPEED_UP`), up to :data:`MOST_EPOCHS`
    altogether. ``epochs`` says instead how many epochs, whatever the model costs. Both are at full fidelity.
    """

    epochs: int | None = Field(default=None, ge=0, le=100_000)
    passes: float = Field(default=4.0, ge=0, le=100_000)

    @property
    def trains(self) -> bool:
        """Whether there is any training."""
        return bool(self.passes if self.epochs is None else self.epochs)

    def epochs_of(self, share: float) -> float:
        """Epochs of a model that costs ``share`` of the base's multiply-accumulates."""
        if self.epochs is not None:
            return self.epochs
        return min(self.passes / share**SPEED_UP, max(self.passes, MOST_EPOCHS))


class Distill(ModelTechnique):
    """Fine-tuning against the base's soft and hard labels and the true ones, on augmented views."""

    name: ClassVar[str] = "distill"
    stage: ClassVar[Stage] = Stage.RECOVERY
    role: ClassVar[Role] = Role.REPAIR
    config: ClassVar[type[StepConfig]] = DistillConfig
    needs: ClassVar[Needs] = Needs(plain_vit=False, conflicts=frozenset({"qat"}))
    instead_of: ClassVar[Mapping[str, str]] = {"epochs": "passes"}
    summary: ClassVar[str] = "recovery training: soft and hard labels of the base model, with augmentation"
    source: ClassVar[str] = (
        "Hinton et al. 2015 (arXiv 1503.02531); DeiT (2012.12877); stored logits: TinyViT (2207.10666); "
        "features: FitNets (1412.6550), VkD (2403.06213); attention transfer (1612.03928); "
        "detectors: CrossKD (2306.11369), PKD (2207.02039); "
        "interpolated weights: WiSE-FT (2109.01903); "
        "RandAugment (1909.13719), mixup (1710.09412), CutMix (1905.04899), repeated augmentation (1901.09335)"
    )

    def choices(self, shape: ModelShape) -> Choices:
        found: dict[str, tuple[Any, ...]] = {
            "passes": (0, 1, 2, 4),
            "learning_rate": (5e-4, 1e-3, 2e-3),
            "soft_weight": (0.5, 0.9),
        }
        # Detection data are few images with many objects each, and what the pyramid reads is worth following.
        detection = {"augmentation": ("zoom",), "batch_size": (16,), "feature_weight": (1.0,)}
        return {**found, **detection} if _detects(shape) else found

    def is_identity(self, config: Any, shape: ModelShape) -> bool:
        return not config.trains

    def normalised(self, config: Any, shape: ModelShape) -> Any:
        """Attention is transferred where student and teacher have the same grid of patches; a detector's classes have
        no temperature; epochs take the place of passes.
        """
        has_grid = isinstance(shape, VitShape) and not shape.reduces_tokens
        unused: dict[str, float] = {} if has_grid else {"attention_weight": 0.0}
        if config.epochs is not None and "passes" in type(config).model_fields:
            unused["passes"] = type(config)().passes
        if _detects(shape):
            unused["temperature"] = type(config)().temperature
        return config.model_copy(update=unused) if unused else config

    def reshape(self, shape: ModelShape, config: Any) -> ModelShape:
        if _detects(shape):
            from sousvit.spaces.tasks.detection import require_moving

            require_moving(config.augmentation)
        return shape

    def nested(self, config: Any) -> Any:
        """Cuts of an elastic base are trained as any other model is."""
        return config

    def epochs_of(self, config: Any, share: float) -> float:
        return float(config.epochs_of(share))

    def apply(self, model: nn.Module, config: Any, context: Context) -> nn.Module:
        from sousvit.spaces.techniques.recovery.interpolation import settle, weights_of

        if context.train is not None:
            weights = config.feature_weight, config.attention_weight
            teacher = _taught(config, context, *weights)
            settles = config.interpolate and context.start is Start.BASE
            start = weights_of(model) if settles else {}
            epochs = self.epochs_of(config, _share(model, context)) * context.fidelity
            train(model, config, epochs, context, _transfer(model, config, context, teacher))
            if settles:
                settle(model, start, context)
        return model


def _share(model: nn.Module, context: Context) -> float:
    """What ``model`` costs of the base's multiply-accumulates; 1 where that is not known."""
    from sousvit.spaces.module_shape import macs_of

    if not context.base_macs or context.image_shape is None:
        return 1.0
    return macs_of(model, context.image_shape) / context.base_macs


def _detects(shape: ModelShape) -> bool:
    return isinstance(shape, VitShape | OtherShape) and shape.detects


def train(
    model: nn.Module,
    config: RecoveryConfig,
    epochs: float,
    context: Context,
    transfer: Transfer | None = None,
    networks: Networks | None = None,
) -> None:
    """Train ``model`` in place on the context's training images, as ``config`` says but for the ``epochs``.

    Args:
        model: gives its task's predictions.
        config: how.
        epochs: how long.
        context: with training images, and a teacher where the losses need one.
        transfer: further losses.
        networks: what learns in each step, where it is not the model alone.

    Raises:
        UserError: no teacher.
        TrialError: the training diverged, or ran past its deadline.
    """
    from sousvit.spaces.training.loop import fit
    from sousvit.spaces.training.plan import TrainingPlan

    assert context.train is not None
    is_random = config.optimizer == "auto" and context.start is Start.RANDOM
    decay = {"weight_decay": RANDOM_DECAY} if is_random else {}
    plan = TrainingPlan(
        epochs=epochs,
        learning_rate=config.learning_rate * (RANDOM_RATE if is_random else 1),
        optimizer=("muon" if is_random else "adamw") if config.optimizer == "auto" else config.optimizer,
        batch_size=config.batch_size,
        soft_weight=config.soft_weight,
        hard_weight=config.hard_weight,
        temperature=config.temperature,
        augmentation=config.augmentation,
        num_views=config.num_views,
        repeats=config.repeats,
        seed=context.seed,
        precision=context.precision,  # type: ignore[arg-type]
        **decay,
    )
    teacher, report = _taught(config, context), context.progress

    def progress(epoch: int, step: int, steps: int, loss: float) -> None:
        if report is not None:
            report("recover" if networks is None else "prepare", epoch * steps + step + 1, round(plan.epochs * steps))

    def logits(view: int) -> Any:
        assert teacher is not None
        return teacher(config.augmentation, context.seed, view)

    learns = config.soft_weight + config.hard_weight > 0
    fit(
        model,
        context.train,
        context.normalise,
        plan,
        logits if learns else None,
        progress,
        context.deadline,
        transfer,
        networks,
        context.checkpoint,
    )


def _taught(config: RecoveryConfig, context: Context, *more: float) -> Teaching | None:
    """The teacher, if any of the losses, ``more`` weights included, needs one."""
    weights = config.soft_weight + config.hard_weight + sum(more)
    if weights and context.teacher is None:
        raise UserError("distillation needs the base model", "no teacher", "give the context a teacher")
    return context.teacher if weights else None


def _transfer(model: nn.Module, config: TransferConfig, context: Context, teacher: Teaching | None) -> Transfer | None:
    if teacher is None or config.feature_weight + config.attention_weight == 0:
        return None
    from sousvit.spaces.training.transfer import Transfer

    assert context.train is not None

    def features(view: int) -> Any:
        return teacher.features(config.augmentation, context.seed, view)

    width = pooled_width(model, context)
    return Transfer(features, width, teacher.feature_width, config.feature_weight, config.attention_weight)


def pooled_width(model: nn.Module, context: Context) -> int:
    """Channels of what ``model`` puts in front of its classifier, or of the map that its pyramid starts from."""
    import torch

    from sousvit.spaces.training.transfer import represent

    assert context.train is not None
    with torch.no_grad():
        seen = represent(model.eval(), context.normalise(context.train.images(torch.arange(1))))
    return seen.pooled.shape[1]
