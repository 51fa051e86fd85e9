"""Where a model runs: target.py (what a target is), profiles.py (targets by name or file) and the shipped profiles."""
