"""Spaces: what may be done to a model. Contracts first: technique.py, needs.py, recipe.py; then techniques/, presets/."""
