"""Executors, which run trials: in a worker process, in this one, on Ray, or made up; contract in executor.py."""
