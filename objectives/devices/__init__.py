"""Devices: where artifacts are timed and probed."""
