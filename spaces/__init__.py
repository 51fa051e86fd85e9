"""Spaces: what may be done to a model. Contracts first (technique.py, recipe.py), then techniques/ and presets/."""
