"""Targets, where models run: target.py (what a target is), profiles.py (by name or file) and the shipped profiles."""
