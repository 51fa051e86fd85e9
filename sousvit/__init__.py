"""sousvit: automated compression search for Vision Transformers.

    import sousvit

    result = sousvit.compress("base.safetensors", train="data/train", test="data/test",
                              limits={"accuracy_drop": 0.01}, optimize=["latency"])
    print(result)

The names in ``__all__`` are public; each is imported at its first use, so that ``import sousvit`` is light.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sousvit import techniques
    from sousvit.api import Search, compress, resume, survey
    from sousvit.errors import TrialError, UserError
    from sousvit.initial import init
    from sousvit.models.preprocess import Preprocess
    from sousvit.objectives.conformance import check_objective
    from sousvit.objectives.devices.conformance import check_device
    from sousvit.objectives.devices.machine import machine_facts
    from sousvit.objectives.objective import Measurement, Objective
    from sousvit.objectives.runtimes.conformance import check_runtime
    from sousvit.objectives.targets.target import Target
    from sousvit.plugins import (
        register_device,
        register_objective,
        register_proposer,
        register_runtime,
        register_technique,
    )
    from sousvit.result import Result
    from sousvit.runs import Run, compare_runs, list_runs, open_run
    from sousvit.search.budget import Budget
    from sousvit.search.callbacks import Callback
    from sousvit.search.proposers.conformance import check_proposer
    from sousvit.spaces.conformance import check_technique
    from sousvit.spaces.export.artifact import Artifact
    from sousvit.spaces.recipe import Recipe, Step
    from sousvit.spaces.space import read_space
    from sousvit.specs import DataSpec as Data
    from sousvit.specs import ModelSpec as Model
    from sousvit.tools import (
        build,
        check,
        import_model,
        list_objectives,
        list_proposers,
        list_spaces,
        list_targets,
        list_techniques,
        load_model,
        measure,
        predict,
        replay,
        schema,
        verify,
    )
    from sousvit.workshop import Workshop

__version__ = "0.1.0"

# ONNX Runtime's wheels report what they run to Microsoft unless this is set before they are first imported, which
# several libraries do; so also in every process that is started. Who wants it sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "Artifact",
    "Budget",
    "Callback",
    "Data",
    "Measurement",
    "Model",
    "Objective",
    "Preprocess",
    "Recipe",
    "Result",
    "Run",
    "Search",
    "Step",
    "Target",
    "TrialError",
    "UserError",
    "Workshop",
    "build",
    "check",
    "check_device",
    "check_objective",
    "check_proposer",
    "check_runtime",
    "check_technique",
    "compare_runs",
    "compress",
    "import_model",
    "init",
    "list_objectives",
    "list_proposers",
    "list_runs",
    "list_spaces",
    "list_targets",
    "list_techniques",
    "load_model",
    "machine_facts",
    "measure",
    "open_run",
    "predict",
    "read_space",
    "register_device",
    "register_objective",
    "register_proposer",
    "register_runtime",
    "register_technique",
    "replay",
    "resume",
    "schema",
    "survey",
    "techniques",
    "verify",
]

#: Module by public name; a name of another there stands behind the colon.
_PLACES = {
    "Artifact": "sousvit.spaces.export.artifact",
    "Budget": "sousvit.search.budget",
    "Callback": "sousvit.search.callbacks",
    "Data": "sousvit.specs:DataSpec",
    "Measurement": "sousvit.objectives.objective",
    "Model": "sousvit.specs:ModelSpec",
    "Objective": "sousvit.objectives.objective",
    "Preprocess": "sousvit.models.preprocess",
    "Recipe": "sousvit.spaces.recipe",
    "Result": "sousvit.result",
    "Run": "sousvit.runs",
    "Search": "sousvit.api",
    "Step": "sousvit.spaces.recipe",
    "Target": "sousvit.objectives.targets.target",
    "TrialError": "sousvit.errors",
    "UserError": "sousvit.errors",
    "Workshop": "sousvit.workshop",
    "build": "sousvit.tools",
    "check": "sousvit.tools",
    "check_device": "sousvit.objectives.devices.conformance",
    "check_objective": "sousvit.objectives.conformance",
    "check_proposer": "sousvit.search.proposers.conformance",
    "check_runtime": "sousvit.objectives.runtimes.conformance",
    "check_technique": "sousvit.spaces.conformance",
    "compare_runs": "sousvit.runs",
    "compress": "sousvit.api",
    "init": "sousvit.initial",
    "import_model": "sousvit.tools",
    "list_objectives": "sousvit.tools",
    "list_proposers": "sousvit.tools",
    "list_runs": "sousvit.runs",
    "list_spaces": "sousvit.tools",
    "list_targets": "sousvit.tools",
    "list_techniques": "sousvit.tools",
    "load_model": "sousvit.tools",
    "machine_facts": "sousvit.objectives.devices.machine",
    "measure": "sousvit.tools",
    "open_run": "sousvit.runs",
    "predict": "sousvit.tools",
    "read_space": "sousvit.spaces.space",
    "register_device": "sousvit.plugins",
    "register_objective": "sousvit.plugins",
    "register_proposer": "sousvit.plugins",
    "register_runtime": "sousvit.plugins",
    "register_technique": "sousvit.plugins",
    "replay": "sousvit.tools",
    "resume": "sousvit.api",
    "schema": "sousvit.tools",
    "survey": "sousvit.api",
    "verify": "sousvit.tools",
}


def __getattr__(name: str) -> Any:
    """A public name, imported now."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "techniques":
        return importlib.import_module("sousvit.techniques")
    place, _, other = _PLACES[name].partition(":")
    globals()[name] = found = getattr(importlib.import_module(place), other or name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
