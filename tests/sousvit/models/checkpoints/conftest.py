"""The forms of docs/models_table.py, and Hugging Face models with random weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[4] / "docs" / "models_table.py"


@pytest.fixture(scope="session")
def table() -> ModuleType:
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("models_table", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["models_table"] = module  # dataclasses look for it
    spec.loader.exec_module(module)
    return module
