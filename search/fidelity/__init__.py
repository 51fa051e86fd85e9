"""Fidelity: how much recovery training a trial gets. Reading order: halving.py (the rungs), promotion.py (who is next)."""
