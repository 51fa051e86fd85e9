"""Helpers of several benchmarks. A ``run.py`` puts ``benchmarks/`` on the path to import them."""
