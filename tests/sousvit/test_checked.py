from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

import sousvit
from sousvit.checked import Checked, parse_yaml, read_yaml, validated, validated_field
from sousvit.errors import UserError
from sousvit.specs import DataSpec


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    epochs: int = Field(default=1, ge=1)
    rate: float = 0.1


def no_shouting(value):
    if value.isupper():
        raise UserError("a name is lower case", value, "write it small")
    return value


Quiet = Annotated[str, AfterValidator(no_shouting)]


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Quiet
    inner: Inner = Inner()
    several: list[Inner] = []


def refused(call, *args):
    with pytest.raises(UserError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_mapping_is_read(tmp_path):
    (tmp_path / "a.yaml").write_text("a: 1\nb: {c: [x, 2.5]}\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": 1, "b": {"c": ["x", 2.5]}}


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3\n", "x:\n  a: 1\n  a: 1\n", "x: [{a: 1, a: 2}]"])
def test_a_key_given_twice_is_refused(text):
    assert "is given twice" in refused(parse_yaml, text, "here")


def test_merge_keys_and_their_overriding_are_allowed():
    text = "base: &b {a: 1, c: 2}\nother:\n  <<: *b\n  a: 5\n"
    assert parse_yaml(text, "here")["other"] == {"a": 5, "c": 2}


@pytest.mark.parametrize(("text", "kind"), [("- a\n", "list"), ("word", "str"), ("", "nothing"), ("# c\n", "nothing")])
def test_anything_but_a_mapping_is_refused(text, kind):
    assert f"here: {kind}" in refused(parse_yaml, text, "here")


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch PWNED']",
        "!!python/object/new:os.system ['touch PWNED']",
        "!!python/name:os.system ''",
        "!!python/module:os ''",
        "!!python/tuple [1, 2]",
        "!custom {a: 1}",
    ],
)
def test_python_tags_are_refused_and_not_run(tag, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "must be YAML" in refused(parse_yaml, f"a: {tag}\n", "here")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\tx: 1", "a: \x00", "a: !!map word", "? [x]\n: 1", "a: *none"])
def test_broken_yaml_is_one_line_that_names_the_file(text):
    message = refused(parse_yaml, text, "here.yaml")
    assert "must be YAML" in message and "here.yaml" in message


def test_the_line_is_named():
    assert "here line 3" in refused(parse_yaml, "a: 1\nb: 2\nc: [1\n", "here") + refused(
        parse_yaml, "a: 1\nb: 2\na: b: c", "here"
    )


def test_deep_nesting_is_refused_not_a_crash():
    assert "nested at most" in refused(parse_yaml, "a: " + "[" * 100_000, "here")


def test_unreadable_files_are_user_errors(tmp_path):
    (tmp_path / "latin").write_bytes(b"a: caf\xe9\n")
    assert "must exist" in refused(read_yaml, tmp_path / "absent.yaml")
    assert "readable text" in refused(read_yaml, tmp_path / "latin")
    assert "readable text" in refused(read_yaml, tmp_path)


def test_an_unknown_key_lists_the_known_ones_at_every_depth():
    assert "no such key" in refused(validated, Outer, {"name": "a", "extra": 1}, "file")
    assert "known keys here: inner, name, several" in refused(validated, Outer, {"name": "a", "extra": 1}, "file")
    message = refused(validated, Outer, {"name": "a", "inner": {"epoch": 3}}, "file")
    assert "inner.epoch" in message and "did you mean 'epochs'? known keys here: epochs, rate" in message
    message = refused(validated, Outer, {"name": "a", "several": [{}, {"x": 3}]}, "file")
    assert "several.1.x" in message and "known keys here: epochs, rate" in message


def test_a_missing_key_is_asked_for():
    message = refused(validated, Outer, {}, "file")
    assert message == "file: name: a value is required; received nothing; add name"


def test_a_wrong_type_names_the_place_the_value_and_the_others():
    message = refused(validated, Outer, {"name": "a", "inner": {"epochs": "many", "rate": []}}, "file")
    assert "file: inner.epochs:" in message and "(and 1 more)" in message and "received 'many'" in message


def test_long_values_are_cut():
    assert len(refused(validated, Outer, {"name": ["x" * 10_000]}, "file")) < 400


def test_the_top_level_must_be_a_mapping():
    assert "the top level" in refused(validated, Outer, [1], "file")


def test_our_own_rules_come_through():
    assert (
        refused(validated, Outer, {"name": "LOUD"}, "file")
        == "file: a name is lower case; received LOUD; write it small"
    )


def test_a_union_is_told_without_the_names_of_its_branches():
    message = refused(validated, DataSpec, {"format": "idx", "validation": 1.5}, "file")
    assert message.startswith("file: validation: ") and "constrained" not in message
    assert "less than 1" in message and "(and" not in message


class Part(Checked):
    epochs: int = Field(default=1, ge=1)


class Whole(Checked):
    name: Quiet
    part: Part = Part()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "Whole: name: a value is required; received nothing; add name"),
        ({"name": "X"}, "Whole: a name is lower case; received X; write it small"),
        (
            {"name": "x", "prt": 1},
            "Whole: prt: no such key; received 1; did you mean 'part'? known keys here: name, part",
        ),
        ({"name": "x", "part": {"epochs": 0}}, "Whole: part.epochs: Input should be greater than or equal to 1"),
        ({"name": "x", "part": 3}, "Whole: part: Input should be keys and values; received 3"),
    ],
)
def test_keywords_are_checked_as_files_are(values, message):
    assert message in refused(lambda: Whole(**values))
    assert message.partition(": ")[2] in refused(validated, Whole, values, "here")


def test_values_without_a_name_are_told_how_to_be_given():
    assert refused(Whole, "x") == "Whole takes keywords; received 'x'; write Whole(name=...)"


def test_every_model_class_of_ours_is_checked():
    for name in sousvit._PLACES:
        getattr(sousvit, name)  # which loads them all
    ours = [kind for kind in BaseModel.__subclasses__() if kind.__module__.startswith("sousvit.")]
    assert ours == list(Checked.__bases__)
    assert {"Budget", "Target", "ModelSpec", "DataSpec", "StepConfig"} <= {
        kind.__name__ for kind in Checked.__subclasses__()
    }


@pytest.mark.parametrize(
    "make",
    [
        lambda: sousvit.Budget(limits={"size": 1}),
        lambda: sousvit.Target(thread=1),
        lambda: sousvit.Model(args=3),
        lambda: sousvit.Data(train=4),
        lambda: sousvit.techniques.PruneMlp(keep=3),
        lambda: sousvit.Step.make("prune_mlp", kep=1),
        lambda: sousvit.Recipe([sousvit.Step("prune_mlp", None)]),
        lambda: sousvit.Recipe([3]),
        lambda: sousvit.Search(3),
        lambda: sousvit.Search({}),
    ],
)
def test_what_is_made_wrongly_from_python_is_one_clear_line(make):
    refused(make)


class Counted(Checked):
    epochs: int = 1
    share: float = 0.5
    several: tuple[float, ...] = ()
    by_name: dict[str, float | Part] = Field(default={})
    pair: Annotated[tuple[Annotated[int, Field(ge=0)], int] | None, Field(description="of counts")] = None
    switch: bool = False
    either: bool | int = 0
    anything: dict[str, Any] = Field(default={})
    named: Literal["a", True] = "a"
    inner: Part = Part()


@pytest.mark.parametrize(
    "values",
    [{"epochs": True}, {"share": False}, {"several": [0.5, True]}, {"by_name": {"a": False}}, {"pair": [0, True]}],
)
def test_true_and_false_are_no_numbers(values):
    [name] = values
    assert f"{name} takes no true or false" in refused(lambda: Counted(**values))
    assert f"{name} takes no true or false" in refused(validated, Counted, values, "here")


class Named(Checked):
    scope: Literal["global", "not an expression ("] = "global"
    bits: Literal[4, 8] | None = None


@pytest.mark.parametrize("value", [[], [1], ["global"], {"last": 1}, {"last": True}, [[True]]])
@pytest.mark.parametrize("name", ["scope", "bits"])
def test_a_collection_in_the_place_of_a_word_of_a_list_is_one_clear_line(name, value):
    for call in (lambda: Named(**{name: value}), lambda: validated_field(Named, name, value, "here")):
        assert name in refused(call)


def test_true_and_false_stand_where_they_may():
    values = {
        "switch": True,
        "either": True,
        "anything": {"a": True},
        "named": True,
        "by_name": {"a": 1.0},
        "inner": {"epochs": 2},
    }
    assert Counted(**values).model_dump(include=set(values)) == values


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
def test_numbers_are_finite(number):
    for values in ({"share": number}, {"several": [number]}, {"by_name": {"a": number}}):
        assert "finite number" in refused(lambda values=values: Counted(**values))


def test_what_a_terminal_obeys_and_what_fills_it_is_not_printed():
    message = refused(validated, Whole, {"name": "x", "p\x1b[31m": 1, "q" * 10**6: 2}, "file")
    assert "\x1b" not in message and "\\x1b[31m" in message
    assert len(refused(validated, Whole, {"name": "x", "q" * 10**6: 2}, "file")) < 3000


def test_one_field_is_checked_whatever_the_others_are():
    assert validated_field(Counted, "share", "1e-3", "here") == 0.001
    assert validated_field(Whole, "part", {"epochs": 3}, "here") == {"epochs": 3}  # without its name there is no whole
    assert "here: part.epochs: Input" in refused(validated_field, Whole, "part", {"epochs": 0}, "here")
