"""The objectives that ship with sousvit; importing this registers them."""

from sousvit.objectives.accuracy import Accuracy
from sousvit.objectives.compute import Macs, Params
from sousvit.objectives.eer import EfficientErrorRate
from sousvit.objectives.latency import Latency, LatencyP95
from sousvit.objectives.mean_ap import MeanAp, MeanAp50
from sousvit.objectives.memory import Memory
from sousvit.objectives.size import CompressedSize, Size

__all__ = [
    "Accuracy",
    "CompressedSize",
    "EfficientErrorRate",
    "Latency",
    "LatencyP95",
    "Macs",
    "MeanAp",
    "MeanAp50",
    "Memory",
    "Params",
    "Size",
]
