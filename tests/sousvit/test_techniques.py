"""Techniques as nouns: checked parameters, and a stub for editors that tells the truth.

``python tests/sousvit/test_techniques.py`` writes the stub again.
"""

from __future__ import annotations

import inspect
import types
import typing
from pathlib import Path

import pytest

import sousvit.techniques
from sousvit.checked import parse_yaml
from sousvit.errors import UserError
from sousvit.spaces.recipe import Recipe, Step
from sousvit.techniques import Distill, Int8Dynamic, PruneMlp

STUB = Path(sousvit.techniques.__file__).with_suffix(".pyi")
HEAD = '''\
# ruff: noqa: E501
# fmt: off
"""Techniques as nouns, told to editors. Written by ``python tests/sousvit/test_techniques.py``."""

from typing import Literal

from sousvit.spaces.recipe import Step

def noun(name: str) -> str: ...
'''


def text(annotation: object) -> str:
    """An annotation as it is written."""
    if isinstance(annotation, type):
        return "None" if annotation is type(None) else annotation.__name__
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return f"Literal[{', '.join(map(quoted, parts))}]"
    assert typing.get_origin(annotation) in (typing.Union, types.UnionType), annotation
    return " | ".join(map(text, parts))


def default(value: object) -> str:
    return "" if value is inspect.Parameter.empty else f" = {quoted(value)}"


def quoted(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def stub() -> str:
    """What the stub should say."""
    found = [HEAD]
    for name in dir(sousvit.techniques):
        parameters = inspect.signature(getattr(sousvit.techniques, name)).parameters.values()
        given = [f"{one.name}: {text(one.annotation)}{default(one.default)}" for one in parameters]
        found.append(f"def {name}({', '.join(['*', *given] if given else [])}) -> Step: ...\n")
    return "".join(found)


def test_the_stub_tells_an_editor_every_technique_and_parameter():
    assert stub() == STUB.read_text(), "write it again: python tests/sousvit/test_techniques.py"


def test_a_recipe_of_nouns_is_the_recipe_of_names_and_survives_yaml_and_json():
    recipe = Recipe([PruneMlp(keep=0.25), Distill(epochs=1), Int8Dynamic()], runtime="onnxruntime")
    steps = (Step.make("prune_mlp", keep=0.25), Step.make("distill", epochs=1), Step.make("int8_dynamic"))
    assert recipe == Recipe(steps) and hash(recipe) == hash(Recipe(steps))
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert Recipe.from_dict(parse_yaml(recipe.to_yaml(), "here")) == recipe


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PruneMlp(kep=0.5), "kep: no such key; received 0.5; did you mean 'keep'"),
        (lambda: PruneMlp(keep=2.0), "prune_mlp: keep:"),
        (lambda: Recipe([PruneMlp]), "write for instance PruneMlp(keep=0.5)"),
        (lambda: Recipe(["prune_mlp"]), "steps are techniques with their parameters; received 'prune_mlp'"),
    ],
)
def test_what_is_wrong_with_a_step_is_one_clear_line(make, words):
    with pytest.raises(UserError) as raised:
        make()
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_an_unknown_noun_names_the_close_ones():
    with pytest.raises(AttributeError, match="prune_mlp"):
        sousvit.techniques.PrunMlp  # noqa: B018
    with pytest.raises(ImportError):
        exec("from sousvit.techniques import Prune")


def test_nouns_carry_their_documentation():
    assert "remove MLP hidden units" in PruneMlp.__doc__
    assert next(iter(inspect.signature(PruneMlp).parameters)) == "keep" and PruneMlp.__name__ == "PruneMlp"


if __name__ == "__main__":
    STUB.write_text(stub())
