"""Fidelity: how much recovery training a trial gets. Begin with halving.py (the rungs), then promotion.py."""
