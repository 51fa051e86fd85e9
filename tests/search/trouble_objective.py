"""A misbehaving objective, by depth: fine at 4 blocks, then NaN, a crash, a hang; greedy where the MLP is narrow."""

import os
import time

from sousvit.objectives.objective import Measurement, Objective, Stage


class Trouble(Objective):
    name, unit, direction, stage = "trouble", "points", "minimize", Stage.TRAINED
    summary = "misbehaves"

    def measure(self, subject):
        depth = len(subject.model.blocks)
        if subject.model.blocks[0].mlp.fc1.out_features < 128:
            hoard = []
            while True:
                hoard.append(bytearray(os.urandom(1 << 20) * 64))
                time.sleep(0.02)
        if depth == 3:
            return Measurement(float("nan"))
        if depth == 2:
            os._exit(7)
        if depth == 1:
            time.sleep(600)
        return Measurement(float(depth))
