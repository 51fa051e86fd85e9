"""Search: how the space is explored.

Reading order: budget.py, goals.py, trial.py, engine.py, then the contracts in proposers/proposer.py and
executors/executor.py, judging/judge.py, fidelity/halving.py, archive.py, and run.py, which puts them together.
"""
