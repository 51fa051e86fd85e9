"""A made-up technique in one file, named in a budget as ``plugins: {techniques: [toy_technique.py:ClipWeights]}``."""

from __future__ import annotations

import torch

from sousvit.spaces.technique import ModelTechnique, Stage, StepConfig


class ClipConfig(StepConfig):
    """``deviations`` of a matrix beyond which its weights are clipped."""

    deviations: float = 3.0


class ClipWeights(ModelTechnique):
    name, stage, config, uses_images = "clip_weights", Stage.WEIGHTS, ClipConfig, False
    summary = "weights clipped to a few standard deviations, so that int8 steps are finer"
    source = "percentile clipping of ranges (arXiv 2004.09602, section 3.2)"

    def choices(self, shape):
        return {"deviations": (2.5, 3.0, 4.0)}

    def reshape(self, shape, config):
        return shape

    def apply(self, model, config, context):
        with torch.no_grad():
            for weight in (parameter for parameter in model.parameters() if parameter.ndim > 1):
                bound = float(config.deviations * weight.std())
                weight.clamp_(-bound, bound)
        return model
