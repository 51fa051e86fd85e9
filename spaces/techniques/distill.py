"""Recovery training by distillation from the base model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from sousvit.common.data.augment import Policy
from sousvit.common.errors import UserError
from sousvit.spaces.optimizer import OptimizerName
from sousvit.spaces.shape import VitShape
from sousvit.spaces.technique import TECHNIQUES, Choices, Context, ModelTechnique, Stage, StepConfig

if TYPE_CHECKING:
    from torch import nn


class DistillConfig(StepConfig):
    """``epochs`` at full fidelity; the weights are shares of the loss, the rest is the true label's cross entropy."""

    epochs: int = Field(default=4, ge=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    optimizer: OptimizerName = "adamw"
    soft_weight: float = Field(default=0.7, ge=0, le=1)
    hard_weight: float = Field(default=0.0, ge=0, le=1)
    temperature: float = Field(default=2.0, gt=0)
    augmentation: Policy = "crop_flip"
    num_views: int = Field(default=4, ge=1)
    batch_size: int = Field(default=128, ge=1)

    @model_validator(mode="after")
    def _shares(self) -> DistillConfig:
        if self.soft_weight + self.hard_weight > 1:
            raise UserError(
                "soft_weight and hard_weight are shares of one loss",
                f"{self.soft_weight} + {self.hard_weight}",
                "sum at most 1",
            )
        return self


class Distill(ModelTechnique):
    """Fine-tunes against the base's soft and hard labels and the true ones, on augmented views."""

    name: ClassVar[str] = "distill"
    stage: ClassVar[Stage] = Stage.RECOVERY
    config: ClassVar[type[StepConfig]] = DistillConfig
    summary: ClassVar[str] = "recovery training: soft and hard labels of the base model, with augmentation"
    source: ClassVar[str] = (
        "Hinton et al. 2015 (arXiv 1503.02531); DeiT (2012.12877); stored logits: TinyViT (2207.10666)"
    )
    conflicts: ClassVar[frozenset[str]] = frozenset({"qat"})
    trains: ClassVar[bool] = True

    def choices(self, shape: VitShape) -> Choices:
        return {"epochs": (0, 4, 8), "learning_rate": (5e-4, 1e-3, 2e-3), "soft_weight": (0.5, 0.9)}

    def is_identity(self, config: Any, shape: VitShape) -> bool:
        return bool(config.epochs == 0)

    def reshape(self, shape: VitShape, config: Any) -> VitShape:
        return shape

    def apply(self, model: nn.Module, config: Any, context: Context) -> nn.Module:
        if context.train is None:
            return model
        from sousvit.spaces.training import TrainingPlan, fit

        plan = TrainingPlan(
            epochs=config.epochs * context.fidelity,
            learning_rate=config.learning_rate,
            optimizer=config.optimizer,
            batch_size=config.batch_size,
            soft_weight=config.soft_weight,
            hard_weight=config.hard_weight,
            temperature=config.temperature,
            augmentation=config.augmentation,
            num_views=config.num_views,
            seed=context.seed,
            precision=context.precision,  # type: ignore[arg-type]
        )
        teacher = None
        if config.soft_weight + config.hard_weight > 0:
            provide = context.teacher
            if provide is None:
                raise UserError(
                    "distillation needs the base model's logits", "no teacher", "give the context a teacher"
                )

            def teacher(view: int) -> Any:
                return provide(config.augmentation, context.seed, view)

        report = context.progress

        def progress(epoch: int, step: int, steps: int, loss: float) -> None:
            if report is not None:
                report("recover", epoch * steps + step + 1, round(plan.epochs * steps))

        fit(model, context.train, context.normalise, plan, teacher, progress, context.deadline)
        return model


TECHNIQUES.add(Distill.name, Distill())
