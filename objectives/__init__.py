"""Objectives: how a candidate is judged. Contract first: objective.py; then builtin.py and one file per family.

Reading order: objective.py (the contract and what an objective may look at), accuracy.py, latency.py, size.py,
compute.py, memory.py, energy.py, eer.py (the measured quantities), relative.py (``x_ratio``, ``x_drop``,
``x@target``), plugins.py and conformance.py (a user's own). How figures come about: timing.py (interleaved latency),
memory_probe.py (a process of its own), tasks/ (predictions and intervals), runtimes/ (what runs an artifact), targets/
(where).
"""
