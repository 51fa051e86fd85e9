"""A made-up technique in one file: clips outliers, so that int8 steps are finer."""

from sousvit.spaces.needs import Needs
from sousvit.spaces.technique import ModelTechnique, Role, Stage, StepConfig


class ClipConfig(StepConfig):
    deviations: float = 3.0


class ClipWeights(ModelTechnique):
    name, stage, role, config = "clip_weights", Stage.WEIGHTS, Role.ASSIST, ClipConfig
    needs = Needs(plain_vit=False, images=False)
    summary = "weights clipped to a few standard deviations of their matrix"
    source = "clipped ranges, as in arXiv 2004.09602"

    def choices(self, shape):
        return {"deviations": (2.5, 3.0, 4.0)}

    def reshape(self, shape, config):
        return shape

    def apply(self, model, config, context):
        for weight in (parameter.data for parameter in model.parameters() if parameter.ndim > 1):
            bound = float(config.deviations * weight.std())
            weight.clamp_(-bound, bound)
        return model
