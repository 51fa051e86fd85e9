"""Tensors of a checkpoint: read from safetensors or from PyTorch's files, cleaned of wrappers' prefixes, in float32."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PosixPath, PurePosixPath, PureWindowsPath
from typing import Any

from safetensors import SafetensorError, safe_open

from sousvit.errors import UserError, one_line
from sousvit.files import open_file, require_file, too_large
from sousvit.models.checkpoints.checkpoint import Tensors, read_json

#: What wrappers put before the names of a model's tensors.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "timm_model.", "_forward_module.")
#: Of what trainers and averagers store among a model's tensors.
_NOT_OF_THE_MODEL = re.compile(r"^(n_averaged|criterion|loss\w*|train_\w+|val_\w+|test_\w+|metrics?)(\.|$)")
#: Bytes of a safetensors header: fifty thousand tensors take a third of it.
_MOST_HEADER = 16 << 20
#: Values in a PyTorch file, and how deep they are nested: one that holds itself has no end.
_MOST_VALUES, _MOST_LEVELS = 500_000, 64
#: Bytes that a tensor may have beyond those that are stored of it.
_MOST_REPEATED = 64 << 20
_REDUCED = {"F16": "float16", "BF16": "bfloat16", "F64": "float64", "torch.float16": "float16"}
_REDUCED |= {"torch.bfloat16": "bfloat16", "torch.float64": "float64", "F8_E4M3": "float8", "F8_E5M2": "float8"}
_REDUCED |= {"torch.float8_e4m3fn": "float8", "torch.float8_e5m2": "float8"}


def open_safetensors(path: Path, framework: str = "numpy") -> Any:
    """A safetensors file, opened for ``framework`` (``numpy``, ``pt``).

    Raises:
        UserError: no file, or not safetensors.
    """
    if not path.is_file():
        raise UserError("a checkpoint must exist", path, "correct the path")
    _require_header(path)
    try:
        return safe_open(path, framework=framework)
    except (SafetensorError, OSError, ValueError) as error:
        rule = "a checkpoint of that name is a safetensors file (pickles are never opened)"
        raise UserError(rule, f"{path}: {error}", "convert it, or correct its name") from error


def _require_header(path: Path) -> None:
    """Refuse a header that is longer than the file or than any model's, before it is parsed."""
    with open_file(path) as stream:
        start, size = stream.read(8), require_file(path)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > size - 8:
        rule = "a checkpoint of that name is a safetensors file (pickles are never opened)"
        raise UserError(rule, f"{path}: a header of {length:,} bytes in {size:,}", "convert it, or correct its name")
    if length > _MOST_HEADER:
        raise too_large(path, "a safetensors header", length, _MOST_HEADER)


@dataclass(frozen=True)
class Stored:
    """Tensors of one file or of several shards: what a header says of them, and how they are read.

    Attributes:
        kinds: of each tensor, such as ``F32`` or ``torch.float32``, by name.
        shapes: of each tensor.
        read: all of them.
        where: the file's name.
    """

    kinds: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[], Tensors]
    where: str


def stored_safetensors(path: Path) -> Stored:
    """The tensors of a safetensors file.

    Raises:
        UserError: no file, or not safetensors.
    """

    def read() -> Tensors:
        with open_safetensors(path, "pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping

    with open_safetensors(path) as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
        kinds = {name: str(entry.get_dtype()) for name, entry in slices.items()}
        return Stored(kinds, {name: tuple(entry.get_shape()) for name, entry in slices.items()}, read, path.name)


def stored_tensors(tensors: Mapping[str, Any], where: str) -> Stored:
    """Tensors that are there already."""
    kinds = {name: str(tensor.dtype) for name, tensor in tensors.items()}
    return Stored(kinds, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, lambda: dict(tensors), where)


def stored_in_folder(folder: Path) -> Stored:
    """The tensors of a folder as timm and Hugging Face write it: one file, or shards with an index.

    Raises:
        UserError: none of the usual files, or a broken one.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return _stored_file(folder / name)
        if (folder / f"{name}.index.json").is_file():
            return _stored_shards(folder / f"{name}.index.json")
    found = sorted(entry.name for entry in folder.iterdir())
    rule = "a model's folder holds model.safetensors or pytorch_model.bin, or an index of their shards"
    raise UserError(rule, f"{', '.join(found[:8]) or 'nothing'} in {folder}", "name the folder that holds the weights")


def _stored_file(path: Path) -> Stored:
    if path.suffix == ".safetensors":
        return stored_safetensors(path)
    tensors = read_torch(path)
    if not isinstance(tensors, Mapping):
        raise UserError("pytorch_model.bin holds tensors by name", type(tensors).__name__, "save the state_dict()")
    return stored_tensors({name: value for name, value in tensors.items() if hasattr(value, "dtype")}, path.name)


def _stored_shards(index: Path) -> Stored:
    parts = [_stored_file(shard) for shard in _shards(index)]
    kinds = {name: kind for part in parts for name, kind in part.kinds.items()}
    shapes = {name: shape for part in parts for name, shape in part.shapes.items()}

    def read() -> Tensors:
        return {name: tensor for part in parts for name, tensor in part.read().items()}

    return Stored(kinds, shapes, read, index.name)


def _shards(index: Path) -> list[Path]:
    """The files that an index lists."""
    found = read_json(index, "an index of shards").get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise UserError("an index of shards maps tensors to files", index, "download it again")
    foreign = [name for name in found.values() if Path(name).name != name]
    if foreign:
        raise UserError("shards lie beside their index", f"{foreign[0]} in {index}", "download it again")
    return [index.parent / name for name in sorted(set(found.values()))]


def read_torch(path: Path) -> Any:
    """What PyTorch's ``torch.save`` wrote, as long as it is tensors and plain values: no code in it is run.

    Raises:
        UserError: no file, another kind of file, or classes that only code could make.
    """
    import torch

    if not path.is_file():
        raise UserError("a checkpoint must exist", path, "correct the path")
    _require_stored(path)
    try:
        with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except (RuntimeError, ValueError) as error:
                if "mmap" not in str(error):
                    raise
                found = torch.load(path, map_location="cpu", weights_only=True)  # written by versions before 1.6
        _require_bounded(found, path)
        return found
    except UserError:
        raise
    except Exception as error:  # a cut, foreign or hostile file fails in many ways
        raise _unreadable(path, error) from error


def _require_stored(path: Path) -> None:
    """Refuse a zip whose entries are compressed, which ``torch.save`` never writes: they may be of any size."""
    with open_file(path) as stream:
        if stream.read(2) != b"PK":
            return
        try:
            with zipfile.ZipFile(stream) as archive:
                entries = archive.infolist()
        except (zipfile.BadZipFile, ValueError, LookupError, ArithmeticError, OSError, NotImplementedError) as error:
            raise _unreadable(path, error) from error
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        return  # TorchScript, which PyTorch refuses by this name
    packed = next((entry for entry in entries if entry.compress_type), None)
    if packed is not None:
        received = f"{packed.filename[:80]} in {path}, which is compressed"
        raise UserError("a PyTorch file is what torch.save wrote", received, "save it again")
    if sum(entry.file_size for entry in entries) > require_file(path):
        raise UserError("a PyTorch file is what torch.save wrote", f"{path}, whose parts overlap", "save it again")


def _require_bounded(content: Any, path: Path) -> None:
    """Refuse values that hold themselves or each other so often that no walk through them ends, and tensors that repeat
    a stored value without end.
    """
    waiting, count = [(content, 0)], 0
    while waiting:
        value, level = waiting.pop()
        count += 1
        if level > _MOST_LEVELS or count > _MOST_VALUES:
            what = f"more than {_MOST_VALUES:,} of them, or {_MOST_LEVELS} levels, in {path}"
            raise UserError("a PyTorch file holds a bounded number of values", what, "save its state_dict()")
        if hasattr(value, "untyped_storage"):
            _require_whole(value, path)
        elif isinstance(value, Mapping):
            waiting += [(inner, level + 1) for pair in value.items() for inner in pair]
        elif isinstance(value, list | tuple | set):
            waiting += [(inner, level + 1) for inner in value]
        elif isinstance(value, argparse.Namespace):
            waiting.append((vars(value), level + 1))


def _require_whole(tensor: Any, path: Path) -> None:
    import torch

    if tensor.layout is not torch.strided or tensor.is_quantized:
        return  # refused where weights are taken
    repeated = tensor.numel() * tensor.element_size() - tensor.untyped_storage().nbytes()
    if repeated > _MOST_REPEATED:
        received = f"{list(tensor.shape)} of {tensor.untyped_storage().nbytes():,} bytes in {path}"
        raise UserError("a checkpoint stores every value of its tensors", received, "save it with contiguous tensors")


def _unreadable(path: Path, error: Exception) -> UserError:
    """Why a file gave no tensors, in one line."""
    code = re.search(r"(?:GLOBAL|global|class) ([\w.]+\.[\w.]+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and code:
        rule = "a PyTorch file is opened for its tensors and plain values only, code in it is never run"
        action = "write torch.save(model.state_dict(), path), and name the model"
        return UserError(rule, f"{path.name}, which holds {code[1]}", action)
    if "TorchScript" in str(error):
        rule, action = "a TorchScript archive is a program, not weights", "save the module's state_dict()"
        return UserError(rule, path, action)
    pickled = isinstance(error, pickle.UnpicklingError)
    what = f"{path}, which is none" if pickled else f"{path}: {one_line(error)}"
    return UserError("a PyTorch file is what torch.save wrote", what, "correct the path, or save it again")


def _harmless() -> list[Any]:
    """Classes beside tensors that trainers store, and that hold values only: no method of theirs runs as they are read.

    timm stores its arguments as an ``argparse.Namespace``; best figures are often numpy's, folders are paths.
    """
    import numpy as np

    kinds = {type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")}
    scalar = np.float64(0).__reduce__()[0]
    older = (scalar, f"numpy.core.multiarray.{getattr(scalar, '__name__', 'scalar')}")
    return [argparse.Namespace, PosixPath, PurePosixPath, PureWindowsPath, np.dtype, scalar, older, *kinds]


def stripped(names: Iterable[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """New names by old ones, without the prefixes of wrappers and without what is no part of a model, and notes on it.

    A prefix goes where most tensors have it: ``backbone.blocks.0...`` beside ``head.weight`` becomes one model.
    """
    names = list(names)
    kept = {name: name for name in names}
    prefixes: list[str] = []
    while True:
        shares = {p: sum(new.startswith(p) for new in kept.values()) for p in PREFIXES}
        prefix = max(shares, key=lambda p: shares[p])
        if not kept or shares[prefix] * 2 <= len(kept):
            break
        shorter = {old: new.removeprefix(prefix) for old, new in kept.items()}
        if len(set(shorter.values())) < len(shorter):
            break
        kept = shorter
        prefixes.append(prefix)
    foreign = [old for old, new in kept.items() if _NOT_OF_THE_MODEL.match(new)]
    kept = {old: new for old, new in kept.items() if old not in foreign}
    notes = [f"the wrapper's prefix {''.join(prefixes)} was removed from the names of its tensors"] if prefixes else []
    notes += [f"{', '.join(foreign[:3])} of its training was left out"] if foreign else []
    return kept, tuple(notes)


def precision_notes(kinds: Mapping[str, str]) -> tuple[str, ...]:
    """A note where weights of another precision become float32; kinds of tensors by name."""
    found = sorted({_REDUCED[kind] for kind in kinds.values() if kind in _REDUCED})
    return (f"its {' and '.join(found)} weights became float32",) if found else ()


def in_float32(tensors: Mapping[str, Any], where: str) -> Tensors:
    """The tensors with all floats in float32, checked.

    Raises:
        UserError: a weight is NaN, infinite, quantized or sparse; it and its file are named.
    """
    import torch

    found: Tensors = {}
    for name, tensor in tensors.items():
        if tensor.is_quantized or tensor.layout is not torch.strided:
            kind = "quantized" if tensor.is_quantized else "sparse"
            raise UserError("a checkpoint's weights are dense floats", f"{kind} {name} of {where}", "save them as such")
        found[name] = tensor.to(torch.float32) if tensor.is_floating_point() else tensor
        if tensor.is_floating_point() and not torch.isfinite(found[name]).all():
            wrong = "NaN" if torch.isnan(found[name]).any() else "an infinite value"
            raise UserError("a checkpoint's weights are finite numbers", f"{wrong} in {name} of {where}", "use another")
    return found
