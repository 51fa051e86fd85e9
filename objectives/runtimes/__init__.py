"""Runtimes: what runs an artifact. The contract is in runtime.py; one file per runtime."""
