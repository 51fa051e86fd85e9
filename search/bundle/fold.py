"""Normalisation folded into an ONNX graph, which then takes uint8 pixels: nothing is left to get wrong outside.

The nodes compute what :func:`sousvit.models.load.normalise` does, in its order, so predictions stay the same.
"""

from __future__ import annotations

from dataclasses import replace

from sousvit.errors import UserError
from sousvit.spaces.export.artifact import UINT8_LAYOUTS, Artifact

_NORMALISED = "normalised"


def folded(artifact: Artifact, layout: str) -> Artifact:
    """The artifact with a graph that takes ``uint8 [B, C, H, W]`` (``nchw``) or ``[B, H, W, C]`` (``nhwc``).

    The file in its folder is replaced.

    Raises:
        UserError: another layout, or another runtime than ONNX Runtime.
    """
    import onnx
    from onnx import TensorProto, helper

    if layout not in UINT8_LAYOUTS[1:]:
        raise UserError("pixels are in the order nchw or nhwc", repr(layout), "write for instance --uint8 nhwc")
    if artifact.runtime != "onnxruntime" or artifact.uint8:
        rule = "steps are folded into an ONNX graph that takes normalised images"
        raise UserError(rule, f"{artifact.runtime}: {artifact.file}", "leave --uint8 out")
    model = onnx.load(artifact.path)
    graph, given = model.graph, model.graph.input[0]
    name, kind = given.name, given.type.tensor_type.elem_type
    batch = given.type.tensor_type.shape.dim[0].dim_param or "batch"
    _, channels, height, width = artifact.input_shape
    scale = [255.0 * std for std in artifact.std]
    offset = [mean / std for mean, std in zip(artifact.mean, artifact.std, strict=True)]
    graph.initializer.extend(
        helper.make_tensor(f"{_NORMALISED}_{what}", TensorProto.FLOAT, [1, channels, 1, 1], values)
        for what, values in (("scale", scale), ("offset", offset))
    )
    for node in graph.node:
        node.input[:] = [_NORMALISED if taken == name else taken for taken in node.input]
    first, nodes = name, []
    if layout == "nhwc":
        nodes.append(helper.make_node("Transpose", [name], [f"{_NORMALISED}_nchw"], perm=[0, 3, 1, 2]))
        first = f"{_NORMALISED}_nchw"
    nodes += [
        helper.make_node("Cast", [first], [f"{_NORMALISED}_float"], to=TensorProto.FLOAT),
        helper.make_node("Div", [f"{_NORMALISED}_float", f"{_NORMALISED}_scale"], [f"{_NORMALISED}_scaled"]),
        helper.make_node("Sub", [f"{_NORMALISED}_scaled", f"{_NORMALISED}_offset"], [f"{_NORMALISED}_shifted"]),
        helper.make_node("Cast", [f"{_NORMALISED}_shifted"], [_NORMALISED], to=kind),
    ]
    old = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *old])
    shape = [batch, channels, height, width] if layout == "nchw" else [batch, height, width, channels]
    given.CopyFrom(helper.make_tensor_value_info(name, TensorProto.UINT8, shape))
    onnx.save(model, artifact.path)
    return replace(artifact, uint8=layout)
