"""The parameters of image synthesis; imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sousvit.checked import validated
from sousvit.spaces.technique import StepConfig
from sousvit.specs import DataSpec

Method = Literal["scenes", "inversion", "generator"]
#: Steps and adversarial weight of each method by default.
OWN_STEPS = {"scenes": 0, "inversion": 12, "generator": 200}
OWN_ADVERSARIAL = {"scenes": 0.0, "inversion": 0.0, "generator": 1.0}
#: Parameters without effect on a method.
UNUSED = {
    "scenes": (
        "steps", "learning_rate", "class_weight", "entropy_weight", "smooth_weight", "attention_weight",
        "adversarial_weight",
    ),
    "inversion": (),
    "generator": ("candidates",),
}  # fmt: skip


class SynthesisConfig(StepConfig):
    """Parameters of the images that are synthesised from the base.

    ``method``: ``scenes`` (random scenes, ``candidates`` times as many as needed, of which the base chooses),
    ``inversion`` (such scenes optimised by Adam for ``steps`` steps, 12 by default), or ``generator`` (a small
    convolutional network trained against the base and a smaller student for ``steps`` batches, 200 by default). The
    weights are those of the class loss, of the patch-similarity entropy (PSAQ-ViT), of total variation, of attention
    consistency, and of the disagreement between base and student (adversarial; 1 for a generator, otherwise 0, by
    default). Scenes need none of these.
    """

    method: Method = "scenes"
    images: int = Field(default=2048, ge=16, le=1_000_000)
    candidates: int = Field(default=3, ge=1, le=100)
    steps: int | None = Field(default=None, ge=1, le=1_000_000)
    learning_rate: float = Field(default=0.05, gt=0)
    class_weight: float = Field(default=1.0, ge=0)
    entropy_weight: float = Field(default=0.5, ge=0)
    smooth_weight: float = Field(default=0.05, ge=0)
    attention_weight: float = Field(default=0.1, ge=0)
    adversarial_weight: float | None = Field(default=None, ge=0)

    @property
    def num_steps(self) -> int:
        """``steps``, or the method's default."""
        return self.steps or OWN_STEPS[self.method]

    @property
    def adversarial(self) -> float:
        """``adversarial_weight``, or the method's default."""
        return OWN_ADVERSARIAL[self.method] if self.adversarial_weight is None else self.adversarial_weight

    @property
    def acting(self) -> SynthesisConfig:
        """The canonical form, equal for equal images: parameters without effect stand at their defaults."""
        own = {"steps": OWN_STEPS[self.method], "adversarial_weight": OWN_ADVERSARIAL[self.method]}
        said = [name for name, value in own.items() if getattr(self, name) == value]
        fields = type(self).model_fields
        return self.model_copy(update={name: fields[name].default for name in (*UNUSED[self.method], *said)})


def synthesis_of(spec: DataSpec) -> SynthesisConfig:
    """Parameters of a run's default images, for recipes without a step ``synthesize``.

    Raises:
        UserError: unknown or wrong parameters.
    """
    return validated(SynthesisConfig, spec.synthesis, "data.synthesis")
