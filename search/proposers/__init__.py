"""Proposers, which say what is tried next. A new one is a file and a line in this table.

Reading order: proposer.py (the contract), queue.py (what a search asks for, in which order), starters.py (what it asks
for before a proposer knows anything), auto.py (the default). The default mostly does what is in model_based.py, with
candidates.py, surrogate.py and acquisition.py. Optuna's samplers are in optuna_sampler.py, samplers.py and nsga2.py.
Besides: conformance.py (for a user's own), study_file.py (the trials of a run as a study of Optuna).
"""

from __future__ import annotations

#: Name in budgets -> its class, imported at first look-up.
BUILTIN = {
    "auto": "sousvit.search.proposers.auto:Auto",
    "gp": "sousvit.search.proposers.samplers:GaussianProcess",
    "nsga2": "sousvit.search.proposers.nsga2:Nsga2",
    "qlognehvi": "sousvit.search.proposers.samplers:QLogNehvi",
    "random": "sousvit.search.proposers.samplers:Random",
    "tpe": "sousvit.search.proposers.samplers:Tpe",
}
