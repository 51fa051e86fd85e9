"""A user's objective that misbehaves by the depth of the model: fine at 4 blocks, then NaN, a crash, a hang."""

import os
import time

from sousvit.objectives.objective import Measurement, Objective, Stage


class Trouble(Objective):
    name, unit, direction, stage = "trouble", "points", "minimize", Stage.TRAINED
    summary = "misbehaves"

    def measure(self, subject):
        depth = len(subject.model.blocks)
        if depth == 3:
            return Measurement(float("nan"))
        if depth == 2:
            os._exit(7)
        if depth == 1:
            time.sleep(600)
        return Measurement(float(depth))
