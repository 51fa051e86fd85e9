"""A folder as timm writes it for the hub: ``config.json`` with an ``architecture``, and its weights.

The same layout is what ``TimmWrapperForImageClassification`` of ``transformers`` saves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sousvit.errors import UserError
from sousvit.models.checkpoints.checkpoint import Imported, Tensors, names_of
from sousvit.models.checkpoints.fitting import fitting_args
from sousvit.models.checkpoints.weights import Stored, in_float32, precision_notes, stored_in_folder, stripped
from sousvit.models.preprocess_config import of_timm


def open_folder(folder: Path, config: Mapping[str, Any]) -> Imported:
    """The checkpoint in ``folder``, described by ``config``, the object in its ``config.json``.

    Raises:
        UserError: a broken description, or no weights.
    """
    name = config.get("architecture")
    if not isinstance(name, str):
        raise UserError("config.json of a timm folder names the architecture", repr(name), f"correct it in {folder}")
    own = config.get("pretrained_cfg", config)
    own = dict(own) if isinstance(own, Mapping) else {}
    stored = stored_in_folder(folder)
    names, notes = stripped(stored.kinds)
    clean = Stored({}, {new: stored.shapes[old] for old, new in names.items()}, stored.read, stored.where)
    args = _args(name, config, own, clean)

    def tensors() -> Tensors:
        found = stored.read()
        return in_float32({new: found[old] for old, new in names.items()}, stored.where)

    labels = config.get("label_names") or own.get("label_names") or config.get("labels") or config.get("id2label")
    count = args.get("num_classes")
    size = args.get("img_size") or own.get("input_size")
    preprocess = of_timm({**own, "input_size": [size, size] if isinstance(size, int) else size})
    return Imported(
        name,
        args,
        tensors,
        names_of(labels, count if isinstance(count, int) else None),
        preprocess,
        None,
        (*notes, *precision_notes(stored.kinds)),
        args.get("num_classes") != 0,
    )


def _args(name: str, config: Mapping[str, Any], own: Mapping[str, Any], stored: Stored) -> dict[str, Any]:
    """What timm is called with: the arguments that newer versions store, or those that older ones left to be guessed.

    Of ``input_size`` timm makes ``img_size``, where the model takes one.
    """
    given = config.get("model_args")
    args: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {}
    classes = config.get("num_classes", own.get("num_classes"))
    if isinstance(classes, int):
        args.setdefault("num_classes", classes)
    overlay = {key: own[key] for key in ("input_size", "fixed_input_size") if own.get(key) is not None}
    if overlay:
        args.setdefault("pretrained_cfg_overlay", overlay)
    pool = config.get("global_pool")
    if given is None and isinstance(pool, str):
        return fitting_args(name, [{**args, "global_pool": pool}, args], stored)
    return args
