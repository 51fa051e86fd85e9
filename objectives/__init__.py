"""Objectives: what a candidate is judged by. A new one is a file (or a class in one) and a line in this table.

Reading order: objective.py (the contract, what an objective may look at, ``x_ratio``, ``x_drop``, ``x@target``), one
file per family of measured quantities (accuracy.py, latency.py, size.py, memory.py, energy.py, eer.py), conformance.py
(what a user's own must pass). How figures come about: timing.py (interleaved latency), memory_probe.py (a process of
its own), tasks/ (predictions and intervals), runtimes/ (what runs an artifact), targets/ and devices/ (where).
"""

from __future__ import annotations

#: Name in budgets -> its class, imported at first look-up.
BUILTIN = {
    "accuracy": "sousvit.objectives.accuracy:Accuracy",
    "agreement": "sousvit.objectives.accuracy:Agreement",
    "eer": "sousvit.objectives.eer:EfficientErrorRate",
    "energy": "sousvit.objectives.energy:Energy",
    "latency": "sousvit.objectives.latency:Latency",
    "latency_p95": "sousvit.objectives.latency:LatencyP95",
    "latency_p99": "sousvit.objectives.latency:LatencyP99",
    "load_time": "sousvit.objectives.memory:LoadTime",
    "macs": "sousvit.objectives.size:Macs",
    "map": "sousvit.objectives.accuracy:MeanAp",
    "map50": "sousvit.objectives.accuracy:MeanAp50",
    "memory": "sousvit.objectives.memory:Memory",
    "params": "sousvit.objectives.size:Params",
    "size": "sousvit.objectives.size:Size",
    "size_compressed": "sousvit.objectives.size:CompressedSize",
    "throughput": "sousvit.objectives.latency:Throughput",
}
