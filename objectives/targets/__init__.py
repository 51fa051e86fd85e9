"""Targets: where a model runs. target.py first; machine.py tells what this machine is; profiles are YAML files."""
