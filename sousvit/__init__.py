"""sousvit: automated compression search for Vision Transformers.

    import sousvit

    result = sousvit.compress("base.safetensors", train="data/train", test="data/test",
                              limits={"accuracy_drop": 0.01}, optimize=["latency"])
    print(result)

The names in ``__all__`` are public; each is imported at its first use, so that ``import sousvit`` is light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sousvit import techniques
    from sousvit.api import Search, compress, survey
    from sousvit.errors import TrialError, UserError
    from sousvit.models.preprocess import Preprocess
    from sousvit.objectives.objective import Measurement, Objective
    from sousvit.objectives.targets.target import Target
    from sousvit.plugins import (
        register_device,
        register_objective,
        register_proposer,
        register_runtime,
        register_technique,
    )
    from sousvit.result import Result
    from sousvit.runs import Run, list_runs, open_run
    from sousvit.search.budget import Budget
    from sousvit.search.callbacks import Callback
    from sousvit.spaces.export.artifact import Artifact
    from sousvit.spaces.recipe import Recipe, Step
    from sousvit.specs import DataSpec as Data
    from sousvit.specs import ModelSpec as Model
    from sousvit.tools import (
        build,
        import_model,
        list_objectives,
        list_proposers,
        list_spaces,
        list_targets,
        list_techniques,
        measure,
        replay,
    )

__version__ = "0.1.0"

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
    "build",
    "compress",
    "import_model",
    "list_objectives",
    "list_proposers",
    "list_runs",
    "list_spaces",
    "list_targets",
    "list_techniques",
    "measure",
    "open_run",
    "register_device",
    "register_objective",
    "register_proposer",
    "register_runtime",
    "register_technique",
    "replay",
    "survey",
    "techniques",
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
    "build": "sousvit.tools",
    "compress": "sousvit.api",
    "import_model": "sousvit.tools",
    "list_objectives": "sousvit.tools",
    "list_proposers": "sousvit.tools",
    "list_runs": "sousvit.runs",
    "list_spaces": "sousvit.tools",
    "list_targets": "sousvit.tools",
    "list_techniques": "sousvit.tools",
    "measure": "sousvit.tools",
    "open_run": "sousvit.runs",
    "register_device": "sousvit.plugins",
    "register_objective": "sousvit.plugins",
    "register_proposer": "sousvit.plugins",
    "register_runtime": "sousvit.plugins",
    "register_technique": "sousvit.plugins",
    "replay": "sousvit.tools",
    "survey": "sousvit.api",
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
