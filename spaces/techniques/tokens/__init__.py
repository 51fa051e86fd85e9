"""Fewer tokens: larger patches, dropped patches, merging, pruning."""
