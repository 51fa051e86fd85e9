"""Techniques as nouns, for recipes written in Python: ``Recipe([PruneMlp(keep=0.5), Distill(), Int8Dynamic()])``.

Each is a function that checks its parameters and returns a :class:`~sousvit.Step`. The names are those of ``sousvit
list techniques`` in CamelCase, techniques of a user's own included; ``techniques.pyi`` tells ours to an editor.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from sousvit.errors import UnknownNameError

if TYPE_CHECKING:
    from sousvit.spaces.recipe import Step


def __getattr__(name: str) -> Callable[..., Step]:
    """The function that makes steps of the technique called ``name``."""
    if name.startswith("_") or not name[0].isupper():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sousvit.spaces.technique import get_technique

    try:
        technique = get_technique(re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower())
    except UnknownNameError as error:
        raise AttributeError(str(error)) from error
    from sousvit.spaces.recipe import Step

    def make(**parameters: object) -> Step:
        return Step.make(technique.name, **parameters)

    make.__name__ = make.__qualname__ = name
    make.__doc__ = f"{technique.summary}\n\n{inspect.getdoc(technique.config) or ''}".strip()
    make.__signature__ = _signature(technique.config)  # type: ignore[attr-defined]
    return make


def __dir__() -> list[str]:
    from sousvit.spaces.technique import techniques

    return sorted(noun(technique.name) for technique in techniques())


def noun(name: str) -> str:
    """``prune_mlp`` as ``PruneMlp``."""
    return "".join(part.capitalize() for part in name.split("_"))


def _signature(config: type) -> inspect.Signature:
    fields = config.model_fields.items()  # type: ignore[attr-defined]
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.is_required() else field.default,
            annotation=field.annotation,
        )
        for name, field in fields
    ]
    return inspect.Signature(parameters, return_annotation="Step")
