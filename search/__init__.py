"""Search: how the space is explored.

Reading order: budget.py, engine.py, proposer.py, gate.py, fidelity.py, archive.py, judge.py, executors/.
"""
