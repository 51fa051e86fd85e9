"""Validation of YAML, plain values and keywords as pydantic models, with every problem told in one line."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from sousvit.errors import UserError
from sousvit.text.file import MOST_BYTES, read_text
from sousvit.text.yaml_loader import BoundedLoader

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


#: A set, because models are made by the thousand while a search weighs recipes.
_MAY_HOLD_SWITCHES = frozenset({bool, list, tuple, dict})


class Checked(_Model):
    """Typed values that cannot be changed, without unknown keys; wrong ones are a UserError from Python too.

    Numbers are finite, and true and false are no numbers: Python would count them as 1 and 0.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_switches(cls, values: Any) -> Any:
        for name, value in values.items() if isinstance(values, dict) else ():
            if type(value) in _MAY_HOLD_SWITCHES and name in cls.model_fields:
                _refuse_switches(cls, name, value)
        return values


def _refuse_switches(kind: type[BaseModel], name: str, value: Any) -> None:
    """Refuse true and false in the field ``name`` of ``kind`` where its type takes none."""
    found = _switch_in(value, kind.model_fields[name].annotation)
    if found is not None:
        action = "write a number, or quotes around a word"
        raise UserError(f"{name} takes no true or false", found, action)


def _switch_in(value: Any, annotation: Any) -> str | None:
    """The first true or false in a value where its type takes none, with its place in a list or mapping, or None."""
    if type(value) not in _MAY_HOLD_SWITCHES:
        return None
    kinds = _alternatives(annotation)
    if isinstance(value, bool):
        return None if any(kind in (bool, Any) or _names_switch(kind) for kind in kinds) else str(value)
    if Any in kinds or (isinstance(value, dict) and any(_model_in(kind) is kind for kind in kinds)):
        return None  # a model looks at its own values
    holding = [kind for kind in kinds if get_origin(kind) is not Literal]  # whose arguments are values, and no types
    inside = tuple(part for kind in holding for part in get_args(kind) if part is not Ellipsis)
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    found = ((place, _switch_in(entry, Union[inside])) for place, entry in entries if inside)  # noqa: UP007
    return next((f"{place}: {entry}" for place, entry in found if entry is not None), None)


def _alternatives(annotation: Any) -> list[Any]:
    """The types that a union consists of, their constraints removed."""
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _alternatives(part)]
    return _alternatives(get_args(annotation)[0]) if get_origin(annotation) is Annotated else [annotation]


def _names_switch(kind: Any) -> bool:
    """Whether true or false is one of the values of a Literal."""
    return any(isinstance(part, bool) for part in get_args(kind))


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """The mapping that ``text`` holds, within the bounds of :mod:`sousvit.text.yaml_loader`.

    Raises:
        UserError: not YAML, no mapping, too large, or a value that YAML reads otherwise than it looks.
    """
    if len(text) > MOST_BYTES:
        raise UserError(f"YAML has at most {MOST_BYTES >> 20} MB", f"{len(text)} characters in {where}", "shorten it")
    try:
        value = BoundedLoader(text, where).get_single_data()
    except UserError:
        raise
    except (yaml.YAMLError, ValueError, LookupError, RecursionError) as error:
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
        UserError: no such file, not text, not YAML, no mapping, or beyond the bounds.
    """
    return parse_yaml(read_text(path), str(path))


def validated(kind: type[M], value: Any, where: str) -> M:
    """``value`` as a ``kind``.

    Raises:
        UserError: names the first wrong field and how many more there are.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise _first_problem(kind, value, error.errors(include_url=False), where) from error


def validated_field(kind: type[BaseModel], name: str, value: Any, where: str) -> Any:
    """A value of the field ``name`` of ``kind``, as it is there, whatever the other fields are.

    Raises:
        UserError: the field does not take it.
    """
    _refuse_switches(kind, name, value)
    try:
        return getattr(kind.model_validate({name: value}), name)
    except ValidationError as error:
        own = [problem for problem in error.errors(include_url=False) if problem["loc"][:1] == (name,)]
        if own:
            raise _first_problem(kind, {name: value}, own, where) from error
        return value  # the others are missing, or do not go with it


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
