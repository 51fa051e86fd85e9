"""Spaces: what may be done to a model. Contract first: technique.py and recipe.py; then techniques/ and presets/."""
