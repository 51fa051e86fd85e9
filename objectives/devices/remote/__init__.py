"""Devices reached over HTTP: the agent that runs there, and its client."""
