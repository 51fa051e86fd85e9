"""Recorded tables, replayed: how search policies are compared over many seeds without training anything.

:mod:`.table` turns a file of configurations and their objectives into a space, a shape and a judge for the
simulated executor; :mod:`.policies` are the ways to choose; :mod:`.curves` measures what each reached, and when.
"""
