"""The objectives that ship with sousvit; importing this registers them."""

from sousvit.objectives.accuracy import Accuracy, Agreement, MeanAp, MeanAp50
from sousvit.objectives.eer import EfficientErrorRate
from sousvit.objectives.energy import Energy
from sousvit.objectives.latency import Latency, LatencyP95, LatencyP99, Throughput
from sousvit.objectives.memory import LoadTime, Memory
from sousvit.objectives.size import CompressedSize, Macs, Params, Size

__all__ = [
    "Accuracy",
    "Agreement",
    "CompressedSize",
    "EfficientErrorRate",
    "Energy",
    "Latency",
    "LatencyP95",
    "LatencyP99",
    "LoadTime",
    "Macs",
    "MeanAp",
    "MeanAp50",
    "Memory",
    "Params",
    "Size",
    "Throughput",
]
