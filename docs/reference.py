"""The generated pages of the site's reference: public names, the budget's keys, the techniques.

    python docs/reference.py DIR

writes them as Markdown below ``DIR``; the site makes them when it is built (:mod:`docs.hooks`), and keeps none.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sousvit
from sousvit.spaces.technique import techniques
from sousvit.techniques import noun
from sousvit.tools import schema


def pages() -> dict[str, str]:
    """The pages by their path in the site."""
    made = {"python": public_names, "budget": budget, "techniques": technique_list}
    return {f"reference/{name}.md": "\n".join(lines()) + "\n" for name, lines in made.items()}


def public_names() -> Iterator[str]:
    """The names of ``sousvit.__all__``, each as mkdocstrings shows it."""
    yield "# Public names"
    yield "What `import sousvit` offers; [Python](../python.md) shows it at work. Everything else is private.\n"
    for name in sousvit.__all__:
        if name == "techniques":
            yield "## `techniques`\nA function for each technique: [Techniques](techniques.md).\n"
            continue
        found = getattr(sys.modules["sousvit.tools"], name) if name == "schema" else getattr(sousvit, name)
        yield f"::: {found.__module__}.{found.__qualname__}"
        if inspect.isclass(found) and found.__name__ != name:
            yield f"    options: {{heading: {name}}}"
        yield ""


def budget() -> Iterator[str]:
    """The keys of a budget, from its JSON schema."""
    whole = schema()
    yield "# Budget"
    yield "Every key, from the schema that `sousvit schema` prints. [Budgets](../budgets.md) explains them by example.\n"
    yield "## Top level"
    yield from _keys(whole)
    for name, part in whole["$defs"].items():
        yield f"## {name}"
        yield _text(part.get("description", ""))
        yield ""
        yield from _keys(part)


def technique_list() -> Iterator[str]:
    """Every technique with its parameters, their defaults and the papers."""
    yield "# Techniques"
    yield "In the order of their stages. [Techniques](../techniques.md) says how they are combined.\n"
    for technique in techniques():
        yield f"## `{technique.name}`"
        yield f"{technique.summary[0].upper()}{technique.summary[1:]}. In Python `{noun(technique.name)}(...)`.\n"
        yield f"{_text(inspect.getdoc(technique.config) or '')}\n"
        parameters = technique.config.model_json_schema()
        if parameters.get("properties"):
            yield from _keys(parameters)
        yield f"Source: {technique.source}.\n"


def _keys(part: dict[str, Any]) -> Iterator[str]:
    """A table of a mapping's keys."""
    required = set(part.get("required", ()))
    yield "| key | value | default | |\n|---|---|---|---|"
    for name, value in part.get("properties", {}).items():
        default = json.dumps(value.get("default"))
        shown = "*required*" if name in required else f"`{default}`" if len(default) <= 60 else "its own defaults"
        yield f"| `{name}` | {_kind(value)} | {shown} | {_cell(value.get('description', ''))} |"
    yield ""


def _kind(value: dict[str, Any]) -> str:
    """What a value may be, in words."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for joined in ("anyOf", "oneOf", "allOf"):
        if joined in value:
            return " or ".join(dict.fromkeys(_kind(one) for one in value[joined]))
    if "enum" in value:
        return ", ".join(f"`{one}`" for one in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    if value.get("type") == "array":
        return f"list of {_kind(value['items'])}" if isinstance(value.get("items"), dict) else "list"
    if value.get("type") == "object":
        inner = value.get("additionalProperties")
        return f"mapping to {_kind(inner)}" if isinstance(inner, dict) and inner else "mapping"
    bounds = [
        f"{words} {value[key]:g}"
        for key, words in (("minimum", "from"), ("exclusiveMinimum", "above"), ("maximum", "to"), ("exclusiveMaximum", "below"))
        if key in value
    ]
    return " ".join([value.get("type", "any"), *bounds])


def _text(docstring: str) -> str:
    """A docstring as Markdown: literals in single backticks, roles as code."""
    plain = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", docstring)
    return re.sub(r"``([^`]+)``", r"`\1`", plain)


def _cell(text: str) -> str:
    return " ".join(_text(text).split()).replace("|", "\\|")


if __name__ == "__main__":
    for name, text in pages().items():
        (Path(sys.argv[1]) / name).parent.mkdir(parents=True, exist_ok=True)
        (Path(sys.argv[1]) / name).write_text(text)
