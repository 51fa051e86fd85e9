"""What ``torch.save`` wrote: a state dict, or a trainer's checkpoint with one in it (timm, Lightning, PyTorch's own).

It is opened with ``weights_only=True``: tensors and plain values, never code. timm stores the arguments of its training
beside the weights, so its checkpoints name their model and say how images reach it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sousvit.errors import UserError
from sousvit.models.checkpoints.checkpoint import Imported, names_of
from sousvit.models.checkpoints.fitting import fitting_args
from sousvit.models.checkpoints.safetensors_file import read_sidecar
from sousvit.models.checkpoints.weights import (
    Stored,
    in_float32,
    precision_notes,
    read_torch,
    stored_tensors,
    stripped,
)
from sousvit.models.preprocess import Preprocess
from sousvit.models.preprocess_config import of_timm

SUFFIXES = (".pth", ".pt", ".bin", ".tar", ".ckpt")
#: Keys under which averaged weights stand; they are what a training is judged by, and win.
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "ema_model", "model_ema_state_dict")
#: Keys under which weights stand.
_WEIGHTS = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "weights", "params", "shadow")
#: Of timm's training arguments, those that make the model.
_MODEL_ARGS = {"nb_classes": "num_classes", "num_classes": "num_classes", "in_chans": "in_chans", "gp": "global_pool"}
#: Names of a classifier's weights in timm's models.
_CLASSIFIERS = ("head.weight", "head.fc.weight", "classifier.weight", "fc.weight", "head.l.weight")


def open_file(path: Path) -> Imported:
    """The checkpoint in a file of PyTorch.

    Raises:
        UserError: no such file, code in it, or no weights.
    """
    content = read_torch(path)
    weights, notes = _weights(content, path)
    names, prefixes = stripped(weights)
    stored = stored_tensors({new: weights[old] for old, new in names.items()}, path.name)
    described, trained = read_sidecar(path.with_suffix(".json")), _training(content)
    name, args = described.get("name"), described.get("args", {})
    if name is None:
        name = _name(content, trained)
        args = {} if name is None else fitting_args(name, _possible_args(trained, stored), stored)
    return Imported(
        name,
        args,
        lambda: in_float32(stored.read(), path.name),
        names_of(described.get("class_names") or _classes(content)),
        _preprocess(trained, described),
        None,
        (*notes, *prefixes, *precision_notes(stored.kinds)),
    )


def _weights(stored: Any, path: Path) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The tensors by name, and a note where one of several sets was chosen."""
    import torch

    place: list[str] = []
    while isinstance(stored, Mapping):
        tensors = {str(name): value for name, value in stored.items() if isinstance(value, torch.Tensor)}
        inner = next((key for key in (*_AVERAGED, *_WEIGHTS) if isinstance(stored.get(key), Mapping)), None)
        if inner is None:
            if not tensors:
                break
            averaged = next((key for key in place if key in _AVERAGED), None)
            return tensors, (f"its averaged weights ({averaged}) are taken",) if averaged else ()
        place.append(inner)
        stored = stored[inner]
    keys = ", ".join(map(str, list(stored)[:8])) if isinstance(stored, Mapping) else type(stored).__name__
    raise UserError("a PyTorch file holds a model's weights", f"{keys or 'nothing'} in {path}", "save its state_dict()")


def _training(stored: Any) -> dict[str, Any]:
    """The arguments of the training, where they are stored."""
    for key in ("args", "hparams", "hyper_parameters", "config"):
        found = stored.get(key) if isinstance(stored, Mapping) else None
        if found is not None:
            return dict(found) if isinstance(found, Mapping) else dict(getattr(found, "__dict__", {}))
    return {}


def _name(stored: Mapping[str, Any], trained: Mapping[str, Any]) -> str | None:
    given = (trained.get("model"), stored.get("arch"), trained.get("model_name"), trained.get("arch"))
    name = next((entry for entry in given if isinstance(entry, str) and entry), None)
    return None if name is None else name.rpartition("/")[2]


def _possible_args(trained: Mapping[str, Any], stored: Stored) -> list[dict[str, Any]]:
    """What timm may have made the model of, the likeliest first.

    Trainers differ in whether the size of their images goes to the model, and networks of convolutions take none.
    """
    args = {ours: trained[key] for key, ours in _MODEL_ARGS.items() if trained.get(key) is not None}
    if "num_classes" not in args:
        rows = next((stored.shapes[key][0] for key in _CLASSIFIERS if stored.shapes.get(key)), None)
        args |= {} if rows is None else {"num_classes": rows}
    size, channels = trained.get("img_size") or trained.get("input_size"), args.get("in_chans", 3)
    if isinstance(size, list | tuple) and len(size) == 3:
        channels, args["in_chans"], size = size[0], size[0], size[1:]
    extra = trained.get("model_kwargs")
    args |= dict(extra) if isinstance(extra, Mapping) else {}
    if size is None:
        return [args]
    sides = [size, size] if isinstance(size, int) else list(size)
    overlay = {"pretrained_cfg_overlay": {"input_size": [channels, *sides]}}
    return [{"img_size": size, **args}, {**args, **overlay}, args]


def _classes(stored: Mapping[str, Any]) -> Any:
    """What each label means: names under one of the usual keys, or a mapping of names to labels."""
    named = (stored.get(key) for key in ("class_names", "classes", "id2label"))
    found = next((entry for entry in named if isinstance(entry, list | tuple | dict) and entry), None)
    numbers = stored.get("class_to_idx")
    if found is None and isinstance(numbers, Mapping):
        return {label: name for name, label in numbers.items()}
    return found


def _preprocess(trained: Mapping[str, Any], described: Mapping[str, Any]) -> Preprocess | None:
    """How the training fed its validation images, as far as it was told: the rest is the model's own configuration."""
    known = ("mean", "std", "crop_pct", "interpolation", "crop_mode")
    said = {key: trained[key] for key in known if trained.get(key)}
    if said.get("interpolation") in ("random", ""):
        del said["interpolation"]
    given = {key: tuple(described[key]) for key in ("mean", "std") if described.get(key)}
    own = Preprocess(**described["preprocess"]) if described.get("preprocess") else None
    if not said and not given:
        return own
    full = of_timm(said)
    names = {"crop_mode": "resize"}
    stated = {names.get(key, key): getattr(full, names.get(key, key)) for key in said}
    found = Preprocess(**{**stated, **given})
    return found if own is None else own.over(found)
