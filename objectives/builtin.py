"""The objectives that ship with sousvit; importing this registers them."""

from sousvit.objectives.accuracy import Accuracy
from sousvit.objectives.agreement import Agreement
from sousvit.objectives.compute import Macs, Params
from sousvit.objectives.eer import EfficientErrorRate
from sousvit.objectives.latency import Latency, LatencyP95
from sousvit.objectives.memory import Memory
from sousvit.objectives.size import CompressedSize, Size

__all__ = [
    "Accuracy",
    "Agreement",
    "CompressedSize",
    "EfficientErrorRate",
    "Latency",
    "LatencyP95",
    "Macs",
    "Memory",
    "Params",
    "Size",
]
