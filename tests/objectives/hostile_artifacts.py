"""Artifacts that mean harm: made from honest ones, as somebody would who wants code run, memory read or a hang."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sousvit.spaces.export.artifact import Artifact

Change = Callable[[onnx.ModelProto], None]
SHAPE = (1, 3, 16, 16)


class Payload:
    """Writes ``mark`` when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return exec, (code(self.mark),)


def code(mark: Path) -> str:
    return f"__import__('pathlib').Path({str(mark)!r}).write_text('it ran')"


def _graph(program: dict[str, Any]) -> Any:
    return program["graph_module"]["graph"]


def _size(program: dict[str, Any], mark: Path) -> None:
    sizes = next(one["sizes"] for one in _graph(program)["tensor_values"].values() if "as_expr" in one["sizes"][0])
    sizes[0]["as_expr"]["expr_str"] = f"{code(mark)} and Symbol('s0', positive=True, integer=True)"


def _guard(program: dict[str, Any], mark: Path) -> None:
    program["guards_code"] = [f"{code(mark)} > 0"]


def _argument_name(program: dict[str, Any], mark: Path) -> None:
    signature = program["graph_module"]["module_call_graph"][0]["signature"]
    signature["forward_arg_names"] = [f"images=({code(mark)})"]


def _input_name(program: dict[str, Any], mark: Path) -> None:
    text = json.dumps(program)
    name = program["graph_module"]["signature"]["input_specs"][-1]["user_input"]["arg"]["as_tensor"]["name"]
    program |= json.loads(text.replace(json.dumps(name), json.dumps(f"images=({code(mark)})")))


def _target(program: dict[str, Any], mark: Path) -> None:
    _graph(program)["nodes"][0] |= {"target": "torch.os.system", "inputs": _texts(f"touch {mark}")}


def _writing_operator(program: dict[str, Any], mark: Path) -> None:
    inputs = [
        {"name": "filename", "arg": {"as_string": str(mark)}, "kind": 1},
        {"name": "shared", "arg": {"as_bool": True}, "kind": 1},
        {"name": "size", "arg": {"as_int": 8}, "kind": 1},
    ]
    _graph(program)["nodes"][0] |= {"target": "torch.ops.aten.from_file.default", "inputs": inputs}


def _library(program: dict[str, Any], mark: Path) -> None:
    _graph(program)["nodes"][0] |= {"target": "torch.ops.load_library", "inputs": _texts(str(mark))}


def _texts(*texts: str) -> list[dict[str, Any]]:
    return [{"name": "", "arg": {"as_string": text}, "kind": 1} for text in texts]


#: Parts of a program that may be pickled.
PICKLED = ("weights", "constants", "sample_inputs")
#: Ways to have code in the program's JSON.
PROGRAMS: dict[str, Callable[[dict[str, Any], Path], None]] = {
    "a symbolic size": _size,
    "a guard": _guard,
    "the name of an argument": _argument_name,
    "the name of an input": _input_name,
    "a function of torch's": _target,
    "an operator that writes": _writing_operator,
    "a library": _library,
}


def torch_artifact(honest: Artifact, folder: Path, change: Callable[[dict[str, Any]], None]) -> Artifact:
    """The same with another program."""

    def rewritten(name: str, content: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return content
        program = json.loads(content)
        change(program)
        return json.dumps(program).encode()

    return rezipped(honest, folder, rewritten)


def pickled_artifact(honest: Artifact, folder: Path, part: str, mark: Path) -> Artifact:
    """The same with a pickle in the place of its weights, constants or sample inputs."""

    def rewritten(name: str, content: bytes) -> bytes:
        if part in name and name.endswith(".json"):
            return content.replace(b'"use_pickle": false', b'"use_pickle": true')
        return pickle.dumps(Payload(mark)) if f"data/{part}/" in name else content

    return rezipped(honest, folder, rewritten)


def rezipped(honest: Artifact, folder: Path, rewritten: Callable[[str, bytes], bytes], **how: Any) -> Artifact:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(honest.path) as old, zipfile.ZipFile(folder / honest.file, "w", **how) as new:
        for name in old.namelist():
            new.writestr(name, rewritten(name, old.read(name)))
    return Artifact(folder, honest.runtime, honest.file, honest.input_shape).save()


def onnx_artifact(folder: Path, change: Change = lambda model: None) -> Artifact:
    """A model of one product, changed."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = numpy_helper.from_array(np.ones((768, 5), np.float32), "weights")
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    images = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *SHAPE[1:]])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5])
    graph = helper.make_graph(nodes, "graph", [images], [logits], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    change(model)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return Artifact(folder, "onnxruntime", "model.onnx", SHAPE).save()


def external(tensor: TensorProto, location: str, offset: int = 0) -> None:
    """Let a tensor lie elsewhere."""
    length = 4 * int(np.prod(tensor.dims))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def _named(location: str, offset: int = 0) -> Change:
    return lambda model: external(model.graph.initializer[0], location, offset)


def _a_node(model: onnx.ModelProto) -> None:
    constant = numpy_helper.from_array(np.ones((768, 5), np.float32), "value")
    external(constant, "/etc/passwd")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["weights"], value=constant))
    model.graph.ClearField("initializer")


def _a_branch(model: onnx.ModelProto) -> None:
    inner = numpy_helper.from_array(np.ones(5, np.float32), "inner")
    external(inner, "../secret")
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [5])
    branch = helper.make_graph([helper.make_node("Identity", ["inner"], ["out"])], "branch", [], [out], [inner])
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(helper.make_node("If", ["yes"], ["unused"], then_branch=branch, else_branch=branch))


def _a_function(model: onnx.ModelProto) -> None:
    constant = numpy_helper.from_array(np.ones(5, np.float32), "value")
    external(constant, "/etc/passwd")
    node = helper.make_node("Constant", [], ["y"], value=constant)
    model.functions.append(helper.make_function("own", "F", [], ["y"], [node], [helper.make_opsetid("", 17)]))


def _sparse(model: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(5, np.float32), "values")
    external(values, "/etc/passwd")
    indices = numpy_helper.from_array(np.arange(5), "indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [768]))


#: ONNX weights that lie elsewhere.
EXTERNALS: dict[str, Change] = {
    "beside": _named("weights.bin"),
    "absolute": _named("/etc/passwd"),
    "above": _named("../secret"),
    "memory of the process": _named("*/_ORT_MEM_ADDR_/*", 140_000_000_000_000),
    "of a node": _a_node,
    "of a branch": _a_branch,
    "of a function": _a_function,
    "sparse": _sparse,
}


def loop_of(turns: int, body: str = "Identity") -> Change:
    """A change: the logits pass a loop; with the body ``Concat`` they double at each turn."""

    def change(model: onnx.ModelProto) -> None:
        inputs = ["state"] if body == "Identity" else ["state", "state"]
        state = helper.make_tensor_value_info("state", TensorProto.FLOAT, None)
        new = helper.make_tensor_value_info("new", TensorProto.FLOAT, None)
        turn = helper.make_tensor_value_info("turn", TensorProto.INT64, [])
        going = helper.make_tensor_value_info("going", TensorProto.BOOL, [])
        still = helper.make_tensor_value_info("still", TensorProto.BOOL, [])
        inner = [
            helper.make_node("Identity", ["going"], ["still"]),
            helper.make_node(body, inputs, ["new"], **({} if body == "Identity" else {"axis": 0})),
        ]
        graph = helper.make_graph(inner, "body", [turn, going, state], [still, new])
        constants = [
            numpy_helper.from_array(np.array(turns, np.int64), "turns"),
            numpy_helper.from_array(np.array(True), "goes"),
        ]
        model.graph.initializer.extend(constants)
        model.graph.node[-1].output[0] = "first"
        model.graph.node.append(helper.make_node("Loop", ["turns", "goes", "first"], ["logits"], body=graph))

    return change


def named_options(artifact: Artifact, options: dict[str, Any]) -> Artifact:
    """The artifact, its description with options."""
    return replace(artifact, options=options).save()


#: Options that write, load or read what an artifact names.
OPTIONS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "a model that is written": lambda mark: {"session.optimized_model_filepath": str(mark)},
    "a library": lambda mark: {"session.register_custom_ops_library": str(mark)},
    "a cache": lambda mark: {"CACHE_DIR": str(mark)},
}
#: Artifacts that do not need an honest one: each is refused, or ended.
ONNX_ATTACKS: dict[str, Callable[[Path, Path], Artifact]] = {
    **{
        f"external data, {name}": lambda folder, mark, change=change: onnx_artifact(folder, change)
        for name, change in EXTERNALS.items()
    },
    **{
        f"option, {name}": lambda folder, mark, given=given: named_options(onnx_artifact(folder), given(mark))
        for name, given in OPTIONS.items()
    },
    "a loop without end": lambda folder, mark: onnx_artifact(folder, loop_of(2**62)),
    "a loop that grows": lambda folder, mark: onnx_artifact(folder, loop_of(40, "Concat")),
}
#: Artifacts made of an honest program: none runs its code.
TORCH_ATTACKS: dict[str, Callable[[Artifact, Path, Path], Artifact]] = {
    **{
        f"code in {name}": lambda honest, folder, mark, change=change: torch_artifact(
            honest, folder, lambda program: change(program, mark)
        )
        for name, change in PROGRAMS.items()
    },
    **{
        f"pickled {part}": lambda honest, folder, mark, part=part: pickled_artifact(honest, folder, part, mark)
        for part in PICKLED
    },
}
