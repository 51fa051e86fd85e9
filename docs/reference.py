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
from functools import cached_property
from pathlib import Path
from types import FunctionType
from typing import Any

import sousvit
from sousvit.spaces.technique import techniques
from sousvit.techniques import noun


def pages() -> dict[str, str]:
    """The pages by their path in the site."""
    made = {"python": public_names, "budget": budget, "techniques": technique_list}
    return {f"reference/{name}.md": "\n".join(lines()) + "\n" for name, lines in made.items()}


def public_names() -> Iterator[str]:
    """The names of ``sousvit.__all__``: signature, docstring, and of a class its public members."""
    yield "# Public names"
    yield "What `import sousvit` offers; [Python](../python.md) shows it at work. Everything else is private.\n"
    for name in sousvit.__all__:
        yield f"## `{name}`"
        if name == "techniques":
            yield "A function for each technique, which makes a step of a recipe: [Techniques](techniques.md).\n"
            continue
        found = getattr(sousvit, name)
        yield _signed(name, found)
        yield _sections(inspect.getdoc(found) or "")
        if inspect.isclass(found):
            yield from _members(found)


def _members(owner: type) -> Iterator[str]:
    """The public methods and properties that a class defines itself, and that say what they are."""
    for name, member in vars(owner).items():
        plain = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if name.startswith("_") or not isinstance(plain, _MEMBERS) or not inspect.getdoc(plain):
            continue
        value = isinstance(plain, property | cached_property)
        yield f"### `{owner.__name__}.{name}`{{: #{owner.__name__.lower()}-{name} }}"
        yield "" if value else _signed(name, plain)
        yield _sections(inspect.getdoc(plain) or "")


_MEMBERS = (FunctionType, property, cached_property)


def _signed(name: str, found: Any) -> str:
    """A signature as code, a parameter a line where one line does not hold them."""
    try:
        signature = inspect.signature(found)
    except ValueError:
        return ""
    shown: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not any(one.startswith("*") for one in shown):
            shown.append("*")
        if parameter.name not in ("self", "cls"):
            shown.append(_parameter(parameter))
    back = "" if signature.return_annotation in _NOTHING else f" -> {_annotation(signature.return_annotation)}"
    line = f"{name}({', '.join(shown)}){back}"
    if len(line) > 88:
        line = f"{name}(\n    " + ",\n    ".join(shown) + f",\n){back}"
    return f"```python\n{line}\n```\n"


_NOTHING = (inspect.Signature.empty, None, "None")


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    typed = "" if parameter.annotation is parameter.empty else f": {_annotation(parameter.annotation)}"
    if parameter.default is parameter.empty:
        return f"{stars}{parameter.name}{typed}"
    default = repr(parameter.default)
    return f"{parameter.name}{typed} = {default if len(default) <= 40 else '...'}"


def _annotation(annotation: Any) -> str:
    """A type without the modules that its names come from."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", text)


def _sections(docstring: str) -> str:
    """A docstring as Markdown; ``Args:`` and ``Raises:`` become lists, ``::`` begins code."""
    lines: list[str] = []
    in_list = code = False
    for line in docstring.splitlines():
        if re.fullmatch(r"(Args|Returns|Raises|Attributes|Yields):", line):
            in_list = line[:-1] in ("Args", "Raises", "Attributes")
            lines += ["", f"**{line[:-1]}**", ""]
        elif line.startswith("    ") and in_list:
            words = re.sub(r"^    (\w[\w, *]*): ", r"- `\1`: ", line)
            lines.append(words if words.startswith("- ") else "  " + line.strip())
        elif line.startswith("    ") and not code:
            lines.append(line.strip())
        else:
            code = line.endswith("::") or (code and (line.startswith("    ") or not line))
            in_list = False
            lines.append(line.replace("::", ":") if line.endswith("::") else line)
    return _text("\n".join(lines)) + "\n"


def budget() -> Iterator[str]:
    """The keys of a budget, from its JSON schema."""
    whole = sousvit.schema()
    yield "# Budget"
    yield "Every key, from the schema that `sousvit schema` prints. [Budgets](../budgets.md) shows them by example.\n"
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
        f"{words} {value[key]:,}"
        for key, words in (
            ("minimum", "from"),
            ("exclusiveMinimum", "above"),
            ("maximum", "to"),
            ("exclusiveMaximum", "below"),
        )
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
