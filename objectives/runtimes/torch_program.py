"""An exported PyTorch program (``.pt2``) read as data, so that a stranger's file can choose operators and no code.

``torch.export.load`` unpickles, evaluates symbolic sizes and guards as Python, and resolves any name within torch;
none of that happens here. The file is a zip of JSON and raw weights: the reader takes from it numbers, tensors, and the
names of operators of :mod:`.torch_operators`, and builds a graph whose own names it chooses itself. Sizes are computed
while the program runs, so that the symbolic expressions beside the graph are never looked at.
"""

from __future__ import annotations

import json
import math
import operator
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx

from sousvit.objectives.runtimes.torch_operators import AUTOCAST, CHECKS, OPERATORS, SIZES, TEXTS

#: The program without its weights; a ViT-B's has 2 MB.
MAX_JSON = 64 << 20
#: Entries of the zip, and operators of the program; a ViT-L has about 1,500.
MAX_ENTRIES, MAX_NODES = 20_000, 50_000
PROGRAM = "models/model.json"
CHUNK = 1 << 20
#: Where the tensors of an input lie, and the key that names one, by the kind of the input.
_TENSORS = {
    "parameter": ("weights", "parameter_name"),
    "buffer": ("weights", "buffer_name"),
    "tensor_constant": ("constants", "tensor_constant_name"),
}
#: Numbers of the file's format (``torch._export.serde.schema``), which are fixed for good.
_DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
_MEMORY_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 4: torch.preserve_format}
_STRIDED = 7
#: Nodes of the new graph by the names that the file has for what they return.
Known = Mapping[str, Any]
#: What JSON has no numbers for.
_NO_NUMBERS = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}


class ProgramError(ValueError):
    """A file that is no program of one image input and one output, or holds something that is not known to be safe."""


class Program:
    """A program, ready to run.

    Attributes:
        module: images to what it returns.
        sizes: of its input; None where any size is taken (the batch).
    """

    def __init__(self, path: Path) -> None:
        try:
            with zipfile.ZipFile(path) as file:
                archive = _Archive(file, path.stat().st_size)
                builder = _Builder(archive)
        except (KeyError, TypeError, IndexError, AttributeError, RecursionError, zipfile.BadZipFile) as error:
            raise ProgramError(f"the file is malformed: {type(error).__name__}: {error}") from error
        self.module: torch.nn.Module = builder.module
        self.sizes: tuple[int | None, ...] = builder.sizes


class _Archive:
    """The entries of a ``.pt2`` file, all of them stored as they are: nothing inflates, nothing overlaps."""

    def __init__(self, file: zipfile.ZipFile, size: int) -> None:
        entries = file.infolist()
        names = {entry.filename.split("/", 1)[-1]: entry for entry in entries}
        if len(names) != len(entries) or len(entries) > MAX_ENTRIES:
            raise ProgramError("an entry stands twice in it, or it has too many")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ProgramError("an entry is compressed")
        if sum(entry.file_size for entry in entries) > size:
            raise ProgramError("its entries are larger than the file")
        self._file, self._entries = file, names
        self._read: dict[str, torch.Tensor] = {}

    def json(self, name: str) -> Any:
        entry = self._entries[name]
        if entry.file_size > MAX_JSON:
            raise ProgramError(f"{name} has more than {MAX_JSON} bytes")
        return json.loads(self._file.read(entry))

    def raw(self, name: str) -> torch.Tensor:
        """An entry's bytes, as uint8; tensors that share one share its memory."""
        if name not in self._read:
            entry = self._entries[name]
            # Into memory of PyTorch's own, which lies where its kernels are fast.
            self._read[name] = found = torch.empty(entry.file_size, dtype=torch.uint8)
            numbers, at = found.numpy(), 0
            with self._file.open(entry) as stream:
                while chunk := stream.read(CHUNK):
                    numbers[at : at + len(chunk)] = np.frombuffer(chunk, np.uint8)
                    at += len(chunk)
            if at != entry.file_size:
                raise ProgramError(f"{name} is cut off")
        return self._read[name]

    def tensors(self, kind: str) -> dict[str, torch.Tensor]:
        """``weights`` or ``constants`` by name."""
        described = self.json(f"data/{kind}/model_{kind}_config.json")["config"]
        return {name: self._tensor(one, f"data/{kind}/") for name, one in described.items()}

    def _tensor(self, described: Mapping[str, Any], folder: str) -> torch.Tensor:
        meta = described["tensor_meta"]
        if described["use_pickle"] is not False or meta["layout"] != _STRIDED:
            raise ProgramError("a tensor is not stored as plain numbers")
        sizes, strides = ([_whole(one["as_int"]) for one in meta[key]] for key in ("sizes", "strides"))
        numbers = self.raw(folder + described["path_name"]).view(_DTYPES[meta["dtype"]])
        # Of a tensor that would reach beyond its bytes, PyTorch says so.
        return torch.as_strided(numbers, sizes, strides, _whole(meta["storage_offset"]["as_int"]))


class _Builder:
    """The graph of a program, from its JSON."""

    def __init__(self, archive: _Archive) -> None:
        plain = archive.json(PROGRAM)["graph_module"]
        self._graph, self._root, self._count = fx.Graph(), torch.nn.Module(), 0
        self.sizes: tuple[int | None, ...] = ()
        known = self._inputs(plain, archive)
        self._add_nodes(plain["graph"]["nodes"], known)
        [output] = plain["signature"]["output_specs"]
        self._graph.output(known[output["user_output"]["arg"]["as_tensor"]["name"]])
        self.module = fx.GraphModule(self._root, self._graph)

    def _inputs(self, plain: Mapping[str, Any], archive: _Archive) -> dict[str, Any]:
        """Nodes for the images and the tensors of the program, by the names that the file has for them."""
        tensors = {kind: archive.tensors(kind) for kind in ("weights", "constants")}
        images, known = self._graph.placeholder("images"), dict[str, Any]()
        given = []
        for spec in plain["signature"]["input_specs"]:
            [(kind, one)] = spec.items()
            if kind == "user_input":
                given.append(one["arg"]["as_tensor"]["name"])
            else:
                known[one["arg"]["name"]] = self._held(_tensor_of(kind, one, tensors), f"tensor_{len(known)}")
        if len(given) != 1:
            raise ProgramError(f"it takes {len(given)} inputs, not one")
        [name] = given
        sizes = plain["graph"]["tensor_values"][name]["sizes"]
        self.sizes = tuple(_whole(size["as_int"]) if "as_int" in size else None for size in sizes)
        return {**known, name: images}

    def _held(self, tensor: torch.Tensor, name: str) -> fx.Node:
        self._root.register_buffer(name, tensor)
        return self._graph.get_attr(name)

    def _add_nodes(self, nodes: Iterable[Mapping[str, Any]], known: dict[str, Any]) -> None:
        """Add nodes that read, and come to stand in, ``known``."""
        for node in nodes:
            self._count += 1
            if self._count > MAX_NODES:
                raise ProgramError(f"it has more than {MAX_NODES} operators")
            if node["target"] == AUTOCAST:
                self._add_part(node, known)
            elif node["target"] not in CHECKS:
                self._add_node(node, known)

    def _add_part(self, node: Mapping[str, Any], known: dict[str, Any]) -> None:
        """Add a part that is computed without autocast, as all of the program is: its nodes among the others."""
        device, _, enabled, _, part, *given = (one["arg"] for one in node["inputs"])
        if device != {"as_string": "cpu"} or enabled != {"as_bool": False}:
            raise ProgramError("a part of it is computed in another precision")
        graph = part["as_graph"]["graph"]
        inner = {
            outside["as_tensor"]["name"]: _tensor(one["as_tensor"], known)
            for outside, one in zip(graph["inputs"], given, strict=True)
        }
        self._add_nodes(graph["nodes"], inner)
        for name, found in zip(_names(node["outputs"]), _names(graph["outputs"]), strict=True):
            known[str(name)] = inner[str(found)]

    def _add_node(self, node: Mapping[str, Any], known: dict[str, Any]) -> None:
        target, outputs = node["target"], node["outputs"]
        if target in SIZES:
            made = self._graph.call_function(SIZES[target], tuple(_value(one["arg"], known) for one in node["inputs"]))
        else:
            function = _operator(target)
            made = self._graph.call_function(function, *_arguments(function, node["inputs"], known))
        whole = len(outputs) == 1 and "as_tensors" not in outputs[0]
        for place, name in enumerate(_names(outputs)):
            if name is not None:
                known[name] = made if whole else self._graph.call_function(operator.getitem, (made, place))


def _arguments(function: Any, inputs: Iterable[Mapping[str, Any]], known: Known) -> tuple[tuple[Any, ...], Any]:
    """The arguments in the order, and under the names, of the operator's own schema."""
    given = {one["name"]: one["arg"] for one in inputs}
    positional: list[Any] = []
    named = {}
    for place, argument in enumerate(function._schema.arguments):
        if argument.name not in given:
            continue
        value = _value(given.pop(argument.name), known, TEXTS.get(argument.name))
        if argument.kwarg_only or len(positional) < place:
            named[argument.name] = value
        else:
            positional.append(value)
    if given:
        raise ProgramError(f"{function} has no argument {', '.join(map(str, given))[:80]!r}")
    return tuple(positional), named


def _value(plain: Mapping[str, Any], known: Known, texts: re.Pattern[str] | None = None) -> Any:
    """An argument, which may be a text if it is one of ``texts``."""
    [(kind, value)] = plain.items()
    if kind == "as_string" and texts is not None and isinstance(value, str) and texts.fullmatch(value):
        return value
    if kind not in _READERS:
        raise ProgramError(f"an argument is {str(kind)[:40]}, which is not known to be safe")
    return _READERS[kind](value, known)


def _tensor_of(kind: str, spec: Mapping[str, Any], tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> torch.Tensor:
    """The tensor behind an input; buffers that are not part of a state lie among the constants."""
    if kind not in _TENSORS:
        raise ProgramError(f"an input is {kind[:40]}, not a tensor")
    place, key = _TENSORS[kind]
    name = spec[key]
    return tensors[place][name] if name in tensors[place] else tensors["constants"][name]


def _operator(target: str) -> Any:
    """The operator of PyTorch's that ``torch.ops.aten.NAME.OVERLOAD`` names, if it is in the list."""
    prefix, _, name = target.partition("torch.ops.aten.")
    if prefix or name not in OPERATORS:
        raise ProgramError(f"the operator {target[:80]!r} is not known to be safe")
    packet, overload = name.split(".")
    return getattr(getattr(torch.ops.aten, packet), overload)


def _names(outputs: Iterable[Mapping[str, Any]]) -> Iterator[str | None]:
    """Names of what an operator returns; None for what the program does not use."""
    for output in outputs:
        [(kind, value)] = output.items()
        if kind == "as_tensors":
            yield from (one["name"] for one in value)
        elif kind == "as_tensor":
            yield value["name"]
        elif kind in ("as_sym_int", "as_sym_bool", "as_sym_float"):
            yield value["as_name"]
        elif kind == "as_none":
            yield None
        else:
            raise ProgramError(f"an operator returns {str(kind)[:40]}")


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise ProgramError("a whole number is expected")
    return value


def _number(value: Any) -> float:
    if isinstance(value, str) and value in _NO_NUMBERS:
        return _NO_NUMBERS[value]
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ProgramError("a number is expected")
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ProgramError("true or false is expected")
    return value


def _tensor(value: Mapping[str, Any], known: Known) -> Any:
    return known[value["name"]]


def _optional(value: Mapping[str, Any], known: Known) -> Any:
    return _tensor(value["as_tensor"], known) if "as_tensor" in value else None


def _size(value: Mapping[str, Any], known: Known) -> Any:
    return known[value["as_name"]] if "as_name" in value else _whole(value["as_int"])


def _layout(value: Any) -> torch.layout:
    if value != _STRIDED:
        raise ProgramError("a tensor is not dense")
    return torch.strided


def _device(value: Mapping[str, Any]) -> torch.device:
    if value["type"] != "cpu":
        raise ProgramError("a tensor is not on the CPU")
    return torch.device("cpu")


def _each(read: Callable[[Any, Known], Any]) -> Callable[[Any, Known], Any]:
    return lambda values, known: [read(value, known) for value in values]


def _alone(read: Callable[[Any], Any]) -> Callable[[Any, Known], Any]:
    return lambda value, known: read(value)


#: Reader of each kind of argument, from its JSON and what names stand for.
_READERS: dict[str, Callable[[Any, Known], Any]] = {
    "as_none": _alone(lambda value: None),
    "as_tensor": _tensor,
    "as_tensors": _each(_tensor),
    "as_optional_tensor": _optional,
    "as_optional_tensors": _each(_optional),
    "as_int": _alone(_whole),
    "as_ints": _each(_alone(_whole)),
    "as_float": _alone(_number),
    "as_floats": _each(_alone(_number)),
    "as_bool": _alone(_flag),
    "as_bools": _each(_alone(_flag)),
    "as_sym_int": _size,
    "as_sym_ints": _each(_size),
    "as_scalar_type": _alone(_DTYPES.__getitem__),
    "as_memory_format": _alone(_MEMORY_FORMATS.__getitem__),
    "as_layout": _alone(_layout),
    "as_device": _alone(_device),
}
