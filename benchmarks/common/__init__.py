"""What several benchmarks share. A ``run.py`` puts ``benchmarks/`` on the path to find it."""
