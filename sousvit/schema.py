"""Validation of YAML, plain values and keywords as pydantic models, with every problem told in one line."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from sousvit.errors import UserError

M = TypeVar("M", bound=BaseModel)

if TYPE_CHECKING:
    _Model = BaseModel
else:

    class _OneLine(type(BaseModel)):
        """The class of model classes: what is wrong with a call is told in one line.

        Models inside other models do not come here: pydantic makes them, and the outermost tells where they stand.
        """

        def __call__(cls, *given: Any, **values: Any) -> Any:
            name = cls.__name__.removesuffix("Spec")
            if given:
                first = next(iter(cls.model_fields), "name")
                raise UserError(f"{name} takes keywords", repr(given[0]), f"write {name}({first}=...)")
            try:
                return super().__call__(**values)
            except ValidationError as error:
                problem = _first_problem(cls, values, error.errors(include_url=False), name)
            raise problem

    class _Model(BaseModel, metaclass=_OneLine):
        """What type checkers take for pydantic's own, so that they know the fields."""


class Checked(_Model):
    """Typed values that cannot be changed, without unknown keys; wrong ones are a UserError from Python too."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Loader(yaml.SafeLoader):
    """Safe loading that refuses a key given twice (plain YAML would keep the last one silently).

    Not the C loader: deep nesting overflows its stack and kills the process.
    """

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        own = node.value if isinstance(node, yaml.MappingNode) else []
        # Before "<<" is merged in: a merged key may be overridden, a written one not.
        keys = [self.construct_object(key, deep=True) for key, _ in own if key.tag != "tag:yaml.org,2002:merge"]
        twice = [key for position, key in enumerate(keys) if key in keys[:position]]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice[0]!r} is given twice", node.start_mark)
        return dict(super().construct_mapping(node, deep=deep))


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """The mapping that ``text`` holds.

    Raises:
        UserError: not YAML, or no mapping.
    """
    try:
        value = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or error
        raise UserError("the file must be YAML", f"{where}{place}: {problem}", "correct that line") from error
    if not isinstance(value, dict):
        received = "nothing" if value is None else type(value).__name__
        raise UserError("the file must hold keys and values", f"{where}: {received}", "see examples/")
    return value


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: no such file, not text, not YAML, or no mapping.
    """
    return parse_yaml(read_text(path), str(path))


def read_text(path: Path) -> str:
    """A text file's content.

    Raises:
        UserError: no such file, or not text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError("the file must exist", path, "correct the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("the file must be readable text", f"{path}: {error}", "correct the path") from error


def validated(kind: type[M], value: Any, where: str) -> M:
    """``value`` as a ``kind``.

    Raises:
        UserError: names the first wrong field and how many more there are.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise _first_problem(kind, value, error.errors(include_url=False), where) from error


def _first_problem(kind: type[BaseModel], value: Any, problems: list[Any], where: str) -> UserError:
    """The first wrong field in one line; the branches that a union tried are told together."""
    places = [_place(value, problem) for problem in problems]
    first, place = problems[0], places[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, UserError):
        return UserError(f"{where}: {cause.rule}", cause.received, cause.action)
    others = len(set(places) - {place})
    more = f" (and {others} more)" if others else ""
    name = ".".join(map(str, place)) or "the top level"
    if first["type"] == "missing":
        return UserError(f"{where}: {name}: a value is required{more}", "nothing", f"add {name}")
    if first["type"] == "extra_forbidden":
        known = _known_keys(kind, place[:-1])
        return UserError(f"{where}: {name}: no such key{more}", _shown(first["input"]), _hint(place[-1], known))
    said = [_message(problem) for problem, at in zip(problems, places, strict=True) if at == place]
    same = list(dict.fromkeys(said))
    return UserError(f"{where}: {name}: {', or '.join(same[:4])}{more}", _shown(first["input"]), "correct it")


def _message(problem: Any) -> str:
    """Pydantic's words, without the names of our classes."""
    return "Input should be keys and values" if problem["type"] == "model_type" else str(problem["msg"])


def _place(value: Any, problem: Any) -> tuple[Any, ...]:
    """Where in the data a problem lies: pydantic's location without the names of union branches."""
    place: list[Any] = []
    for position, part in enumerate(problem["loc"]):
        last = position == len(problem["loc"]) - 1
        inside = isinstance(value, Mapping) and part in value
        inside = inside or (isinstance(value, list | tuple) and isinstance(part, int) and part < len(value))
        if inside:
            value = value[part]
            place.append(part)
        elif last and problem["type"] == "missing":
            place.append(part)
    return tuple(place)


def _known_keys(kind: type[BaseModel], place: tuple[Any, ...]) -> list[str]:
    """Keys of the model that stands at ``place`` below ``kind``, or an empty list."""
    current: type[BaseModel] | None = kind
    for part in place:
        if isinstance(part, str) and current is not None:
            field = current.model_fields.get(part)
            current = _model_in(field.annotation) if field is not None else None
    return sorted(current.model_fields) if current is not None else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first model class in an annotation such as ``Model``, ``Model | None`` or ``list[Model]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for entry in get_args(annotation) if (found := _model_in(entry)) is not None), None)


def _hint(key: Any, known: list[str]) -> str:
    if not known:
        return "remove it"
    close = get_close_matches(str(key), known, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{meant}known keys here: {', '.join(known)}"


def _shown(received: Any) -> str:
    if isinstance(received, Mapping):
        return "a mapping"
    text = repr(received)
    return text if len(text) <= 200 else f"{text[:200]}..."
