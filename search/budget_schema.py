"""The JSON schema of a written budget: what editors complete and check YAML by.

Pydantic describes a budget's full form; the short forms that the reader takes as well (a model by its file, durations
as text, one target instead of a list) are added here.
"""

from __future__ import annotations

from typing import Any

from sousvit.search.budget import Budget
from sousvit.specs import NO_DATA
from sousvit.text.amounts import MOST_CHARACTERS

_TEXT: dict[str, Any] = {"type": "string"}
_TEXTS: dict[str, Any] = {"type": "array", "items": _TEXT}
_DURATION_TEXT: dict[str, Any] = {
    "type": "string",
    "pattern": "^\\s*([0-9]+(\\.[0-9]+)?\\s*[smhdSMHD]\\s*)+$",
    "maxLength": MOST_CHARACTERS,
}
_NUMBER_TEXT: dict[str, Any] = {"type": "string", "pattern": "^[0-9.]+\\s*[MmGg][Bb]$"}
#: By definition and key: another form that the reader takes.
_SHORT_FORMS: dict[tuple[str, str], dict[str, Any]] = {
    ("Budget", "model"): _TEXT,
    ("Budget", "data"): {"const": NO_DATA},
    ("Budget", "targets"): {"anyOf": [_TEXT, {"$ref": "#/$defs/Target"}]},
    ("Budget", "optimize"): _TEXT,
    ("Budget", "prefer"): {"anyOf": [_TEXT, _TEXTS]},
    ("Budget", "space"): _TEXTS,
    ("SearchLimits", "time"): _DURATION_TEXT,
    ("SearchLimits", "trial_timeout"): _DURATION_TEXT,
    ("SearchLimits", "measure_time"): _DURATION_TEXT,
    ("Target", "runtime"): _TEXT,
    ("Target", "threads"): {"const": "all"},
    ("Target", "memory"): _NUMBER_TEXT,
    ("DataSpec", "images"): _TEXT,
    ("Preprocess", "size"): {"type": "integer", "minimum": 1},
    ("Preprocess", "resize_size"): {"type": "integer", "minimum": 1},
}


def budget_schema() -> dict[str, Any]:
    """The schema, in JSON Schema's draft 2020-12."""
    schema = Budget.model_json_schema()
    for (name, key), form in _SHORT_FORMS.items():
        properties = schema["properties"] if name == "Budget" else schema["$defs"][name]["properties"]
        full = properties[key]
        told = {word: full.pop(word) for word in ("default", "description", "title") if word in full}
        properties[key] = {"anyOf": [full, form], **told}
    items = schema["properties"]["targets"]["anyOf"][0]["items"]
    schema["properties"]["targets"]["anyOf"][0]["items"] = {"anyOf": [items, _TEXT]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
