"""The gate: rejects a candidate by a hard limit before anything expensive is done.

Three moments, cheapest first: :func:`analytic_values` from shapes alone (here, in microseconds); the
untrained artifact, measured by the worker; the trained artifact. Each compares what is known so far with
:func:`broken_limits`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from sousvit.search.budget import Limit
from sousvit.search.record import Value
from sousvit.spaces.technique import DeployTechnique

if TYPE_CHECKING:
    from sousvit.spaces.recipe import Recipe
    from sousvit.spaces.shape import VitShape


def analytic_values(recipe: Recipe, shape: VitShape, base: Mapping[str, Value]) -> dict[str, Value]:
    """Parameters and MACs (exact) and a lower bound of the file size, with their ratios to the base.

    Args:
        shape: the base's shape.
        base: the base's figures.
    """
    compressed = recipe.reshape(shape)
    deploy = recipe.deploy_step
    bytes_per_weight = 4.0
    if deploy is not None:
        assert isinstance(deploy.handler, DeployTechnique)
        bytes_per_weight = deploy.handler.bytes_per_weight(deploy.config)
    values = {
        "params": compressed.params() / 1e6,
        "macs": compressed.macs() / 1e6,
        "size": compressed.matrix_weights() * bytes_per_weight / 1e6,
    }
    ratios = {f"{name}_ratio": value / base[name].value for name, value in values.items() if name in base}
    return {name: Value(value) for name, value in {**values, **ratios}.items()}


def broken_limits(values: Mapping[str, Value], limits: Iterable[Limit]) -> dict[str, float]:
    """Signed violations above 0 of the limits whose values are known."""
    known = {limit.name: limit.violation(values[limit.name].value) for limit in limits if limit.name in values}
    return {name: violation for name, violation in known.items() if violation > 0}


def explain(broken: Mapping[str, float], values: Mapping[str, Value], limits: Iterable[Limit]) -> str:
    """For instance ``latency_ratio 0.41 (limit <= 0.25)``; one phrase a broken limit."""
    words = []
    for limit in limits:
        if limit.name in broken:
            got = f"{values[limit.name].value:.4g}" if limit.name in values else "not measured"
            words.append(f"{limit.name} {got} (limit {'>=' if limit.maximise else '<='} {limit.bound:g})")
    return ", ".join(words)
