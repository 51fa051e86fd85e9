"""Targets: where a model runs.

Reading order: target.py (the profile; the shipped ones are YAML files), device.py (the contract), local.py,
standin.py, client.py (the three kinds), order.py and bench.py (what a measuring process is asked and does), process.py
(who watches over it), agent.py and store.py (the device's side), sanity.py (which answers can be true).
"""
