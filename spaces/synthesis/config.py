"""The parameters of synthesis; light: no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sousvit.common.schema import validated
from sousvit.common.specs import DataSpec
from sousvit.spaces.technique import StepConfig

Method = Literal["scenes", "inversion", "generator"]
OWN_STEPS = {"scenes": 0, "inversion": 12, "generator": 200}


class SynthesisConfig(StepConfig):
    """How images are made from the base.

    ``method``: ``scenes`` (random scenes, ``candidates`` times as many as needed, of which the base chooses),
    ``inversion`` (such scenes optimised by Adam for ``steps`` steps, 12 by default), or ``generator`` (a small
    convolutional network trained against the base and a smaller student for ``steps`` batches, 200 by default). The
    weights are those of the class loss, of the patch-similarity entropy (PSAQ-ViT), of total variation, of attention
    consistency, and of the disagreement between base and student (adversarial); scenes need none.
    """

    method: Method = "scenes"
    images: int = Field(default=2048, ge=16, le=1_000_000)
    candidates: int = Field(default=3, ge=1, le=100)
    steps: int | None = Field(default=None, ge=1)
    learning_rate: float = Field(default=0.05, gt=0)
    class_weight: float = Field(default=1.0, ge=0)
    entropy_weight: float = Field(default=0.5, ge=0)
    smooth_weight: float = Field(default=0.05, ge=0)
    attention_weight: float = Field(default=0.1, ge=0)
    adversarial_weight: float = Field(default=0.0, ge=0)

    @property
    def num_steps(self) -> int:
        """``steps``, or the method's own number."""
        return self.steps or OWN_STEPS[self.method]


def synthesis_of(spec: DataSpec) -> SynthesisConfig:
    """How a run's own images are made, which recipes without the step ``synthesize`` work with.

    Raises:
        UserError: unknown or wrong parameters.
    """
    return validated(SynthesisConfig, spec.synthesis, "data.synthesis")
