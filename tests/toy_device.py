"""A made-up device in one file: this machine, timed when nothing else keeps it busy, or when patience is over."""

import os
import time

from sousvit.objectives.devices.local import LocalDevice
from sousvit.objectives.timing import DEFAULT


class WhenIdle(LocalDevice):
    name = "when_idle"

    def time(self, artifacts, baseline, plan=DEFAULT, with_baseline=False):
        deadline = time.monotonic() + self.target.patience
        while os.getloadavg()[0] > 0.5 and time.monotonic() < deadline:
            time.sleep(1)
        return super().time(artifacts, baseline, plan, with_baseline)
