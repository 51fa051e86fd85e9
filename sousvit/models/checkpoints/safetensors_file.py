"""A safetensors file with timm's names: ours, which describes its model, or a bare one that the user describes.

The description stands in the file's metadata (``sousvit train`` and ``sousvit import`` write it) or in ``<stem>.json``
beside it: name, args, mean, std, preprocess, a detector's head, class names. Reading it loads no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sousvit.checked import validated
from sousvit.errors import UserError
from sousvit.models.checkpoints.checkpoint import Imported, Tensors, parse_json, read_json
from sousvit.models.checkpoints.weights import (
    in_float32,
    open_safetensors,
    precision_notes,
    stored_safetensors,
    stripped,
)
from sousvit.models.preprocess import Preprocess

#: Key of the metadata under which the description stands.
METADATA_KEY = "sousvit"
#: Key of a description: what each label means. It stands with the weights, so a budget does not repeat it.
CLASS_NAMES = "class_names"
_DESCRIPTION = "a checkpoint's description"
#: Keys of a description beside the name that a model needs; see :func:`read_sidecar`.
_OWN = ("mean", "std", "preprocess", "detector", CLASS_NAMES)
#: Keys of a description that are figures or notes; everything else in a flat sidecar goes to timm.
_FIGURES = frozenset(
    {"epoch", "epochs", "training", "figures", "params", "seed", "date", "dataset", "notes", "license"}
)
_FIGURE_ENDINGS = ("top1", "top5", "accuracy", "_acc", "_loss", "_seconds", "_params", "_macs")


def open_file(path: Path) -> Imported:
    """The checkpoint in a safetensors file.

    Raises:
        UserError: no file, not safetensors, or a broken description.
    """
    stored = stored_safetensors(path)
    own = read_checkpoint_metadata(path)
    described = own or _read_beside(path)
    names, notes = stripped(stored.kinds)

    def tensors() -> Tensors:
        found = stored.read()
        return in_float32({new: found[old] for old, new in names.items()}, path.name)

    args = described.get("args") or {}
    if not isinstance(args, dict):
        raise UserError(f"args of {_DESCRIPTION} are timm's arguments", f"{args!r} in {path}", "correct them")
    return Imported(
        described.get("name"),
        args,
        tensors,
        _class_names(described, path),
        _preprocess(described, path),
        described.get("detector"),
        (*_earlier_notes(own), *notes, *precision_notes(stored.kinds)),
        is_ours=bool(own),
    )


def _read_beside(path: Path) -> dict[str, Any]:
    """The description in ``<stem>.json`` beside a file, or beside what it links to."""
    return read_sidecar(path.with_suffix(".json")) or read_sidecar(path.resolve().with_suffix(".json"))


def _earlier_notes(described: dict[str, Any]) -> tuple[str, ...]:
    """What was decided when the model was imported."""
    notes = described.get("notes")
    return tuple(map(str, notes)) if isinstance(notes, list) else ()


def read_checkpoint_metadata(path: Path) -> dict[str, Any]:
    """The description in a checkpoint itself, or an empty dict.

    Raises:
        UserError: no file, or not safetensors.
    """
    with open_safetensors(path) as checkpoint:
        text = (checkpoint.metadata() or {}).get(METADATA_KEY)
    return {} if text is None else parse_json(text, path, _DESCRIPTION)


def read_sidecar(path: Path) -> dict[str, Any]:
    """The description in a JSON file beside a checkpoint; empty when it describes no model.

    The model is called ``name`` or ``model_name``; timm's arguments stand under ``args`` or at the top level,
    where known figures (epochs, accuracies) are passed over.

    Raises:
        UserError: not JSON, or no mapping.
    """
    if not path.is_file():
        return {}
    values = read_json(path, _DESCRIPTION)
    name = values.get("name") or values.get("model_name")
    if not isinstance(name, str):
        return {}
    known = {*_OWN, "name", "args", "model_name"}
    flat = {key: value for key, value in values.items() if key not in known and not _is_figure(key)}
    described = {key: values[key] for key in _OWN if key in values}
    return {**described, "name": name, "args": values.get("args", flat)}


def _is_figure(key: str) -> bool:
    return key in _FIGURES or key.lower().endswith(_FIGURE_ENDINGS)


def _class_names(described: dict[str, Any], path: Path) -> tuple[str, ...]:
    names = described.get(CLASS_NAMES) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        rule = f"{CLASS_NAMES} of {_DESCRIPTION} is a list of names"
        raise UserError(rule, f"{str(names)[:80]} in {path}", "correct it")
    return tuple(names)


def _preprocess(described: dict[str, Any], path: Path) -> Preprocess | None:
    values = described.get("preprocess") or {}
    if isinstance(values, dict):
        given = {key: described[key] for key in ("mean", "std") if described.get(key) is not None}
        values = {**given, **values}
    return validated(Preprocess, values, f"{path}: preprocess") if values else None
