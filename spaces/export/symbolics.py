"""Operators of PyTorch that its ONNX exporter does not know at our opset, written in operators that ONNX has.

Each is a function of the exporter's graph and the operator's arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.onnx import register_custom_op_symbolic, symbolic_helper, unregister_custom_op_symbolic


@contextmanager
def known_operators(opset: int) -> Iterator[None]:
    """Let the exporter write :data:`OPERATORS`."""
    for name, function in OPERATORS.items():
        register_custom_op_symbolic(name, function, opset)
    try:
        yield
    finally:
        for name in OPERATORS:
            unregister_custom_op_symbolic(name, opset)


@symbolic_helper.parse_args("v", "is", "v", "f")
def _rms_norm(graph: Any, x: Any, shape: list[int], weight: Any, epsilon: float | None) -> Any:
    """``x / sqrt(mean(x^2) + epsilon) * weight``; ONNX Runtime fuses the pattern (SimplifiedLayerNormalization)."""
    if epsilon is None:
        epsilon = torch.finfo(torch.float32).eps
    squares = graph.op("Pow", x, _constant(graph, 2.0))
    mean = graph.op("ReduceMean", squares, axes_i=list(range(-len(shape), 0)), keepdims_i=1)
    root = graph.op("Sqrt", graph.op("Add", mean, _constant(graph, epsilon)))
    normal = graph.op("Div", x, root)
    return normal if weight.node().mustBeNone() else graph.op("Mul", normal, weight)


def _constant(graph: Any, value: float) -> Any:
    return graph.op("Constant", value_t=torch.tensor(value))


OPERATORS: dict[str, Callable[..., Any]] = {"aten::rms_norm": _rms_norm}
