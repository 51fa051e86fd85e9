"""Images for the other steps of a recipe, made from the base model alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from sousvit.errors import UserError
from sousvit.spaces.context import Context
from sousvit.spaces.needs import Needs
from sousvit.spaces.shape import ModelShape, NetworkShape
from sousvit.spaces.technique import Choices, ModelTechnique, Role, Stage, StepConfig
from sousvit.spaces.techniques.synthesis.config import SynthesisConfig

if TYPE_CHECKING:
    from torch import nn


#: MACs of a base up to which a search optimises images by default: for a larger one it takes a CPU hours.
OPTIMISED_MACS = 1e9


class Synthesize(ModelTechnique):
    """Synthesised images for the steps after it, which calibrate and train on them; the model stays as it is.

    Recipes without it use the run's default images. A search leaves it out where the user has images.
    """

    name: ClassVar[str] = "synthesize"
    stage: ClassVar[Stage] = Stage.IMAGES
    role: ClassVar[Role] = Role.SUPPLY
    config: ClassVar[type[StepConfig]] = SynthesisConfig
    needs: ClassVar[Needs] = Needs(plain_vit=False, images=False)
    summary: ClassVar[str] = "without data: images made from the base alone (chosen scenes, inversion, a generator)"
    source: ClassVar[str] = (
        "PSAQ-ViT (arXiv 2203.02250); attention consistency and generator: 2408.05952; Adaptive DeepInversion "
        "(1912.08795); scenes: dead leaves (Lee et al. 2001), Baradad et al. (2106.05963)"
    )

    def choices(self, shape: NetworkShape) -> Choices:
        methods = ("scenes", "inversion") if shape.macs() <= OPTIMISED_MACS else ("scenes",)
        return {"method": methods, "images": (2048,)}

    def reshape(self, shape: ModelShape, config: Any) -> ModelShape:
        return shape

    def apply(self, model: nn.Module, config: Any, context: Context) -> nn.Module:
        return model

    def normalised(self, config: Any, shape: ModelShape) -> Any:
        return config.acting

    def surroundings(self, config: Any, context: Context) -> Context:
        if context.synthesise is None:
            rule = f"{self.name} makes images where there are none"
            raise UserError(rule, "data with images", "use data: none, or take the step out of the recipe")
        made = context.synthesise(config)
        return replace(context, train=made.train, calibration=made.calibration, teacher=made.teacher)
