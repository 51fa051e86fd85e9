"""YAML of strangers: bounds, and values that YAML 1.1 reads otherwise than they look."""

from __future__ import annotations

import time

import pytest

from sousvit.checked import parse_yaml, read_yaml
from sousvit.errors import UserError
from sousvit.text.yaml_loader import MOST_DEPTH, MOST_IN_VALUE, MOST_VALUES

LETTERS = "abcdefghijklmnop"


def refused(text: str) -> str:
    begun = time.process_time()
    with pytest.raises(UserError) as caught:
        parse_yaml(text, "here")
    message = str(caught.value)
    assert time.process_time() - begun < 5 and "\n" not in message and len(message) < 3000 and "here" in message
    return message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no", "write false, or 'no' in quotes"),
        ("Yes", "write true, or 'Yes' in quotes"),
        ("[cat, on]", "write true, or 'on' in quotes"),
        ("017", "which YAML reads as 15"),
        ("-017", "which YAML reads as -15"),
        ("1:30", "which YAML reads as 90"),
        ("1:30.5", "which YAML reads as 90.5"),
        ("1_000", "which YAML reads as 1000"),
        ("1_000.5", "which YAML reads as 1000.5"),
        ("0x10", "which YAML reads as 16"),
        ("0b11", "which YAML reads as 3"),
        ("0x" + "f" * 4000, "decimal digits"),
        ("0" + "7" * 4000, "decimal digits"),
        ("9" * 4000, "at most 18 digits"),
        ("1" + "_0" * 2000, "decimal digits"),
        ("1" + ":10" * 1300, "decimal digits"),
    ],
)
def test_what_reads_otherwise_than_it_looks_is_refused_with_advice(text, words):
    assert words in refused(f"a: 1\nb: {text}\n") and "here line 2" in refused(f"a: 1\nb: {text}\n")


@pytest.mark.parametrize("key", ["on", "no", "true", "1", "1.5", "~", "null"])
def test_a_key_that_is_no_word_is_refused(key):
    assert "a key in YAML is a word" in refused(f"{key}: 1")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2024-01-01", "2024-01-01"),
        ("2024-01-01 10:00:00", "2024-01-01 10:00:00"),
        ("'no'", "no"),
        ("'017'", "017"),
        ("True", True),
        ("false", False),
        ("-12", -12),
        ("0", 0),
        ("1.5e-3", 0.0015),
        ("~", None),
        ("=", "="),
        ("0.10", 0.1),
        ("!!str 5", "5"),
    ],
)
def test_what_is_plain_is_read(text, value):
    found = parse_yaml(f"a: {text}", "here")["a"]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "tag",
    ["!!timestamp 2024-01-01", "!!binary aGk=", "!!set {a}", "!!omap [a: 1]", "!!pairs [a: 1]", "!!value =",
     "!!int ''", "!!int x", "!!float ''", "!!float x", "!!bool maybe", "!!bool ''", "!!str {=: x}", "!!str [x]",
     f"!!{'y' * 4000} 1"],
)  # fmt: skip
def test_other_kinds_of_values_are_refused(tag):
    assert "must be YAML" in refused(f"a: {tag}")


@pytest.mark.parametrize("escape", [r"\0", r"\ud800", r"\udfff", r"\e[31m", r"\x07", r"\x9b"])
def test_text_that_no_path_or_terminal_takes_is_refused(escape):
    message = refused(f'a: "x{escape}y"')
    assert "no control characters" in message and message.isprintable()
    assert "no control characters" in refused(f'"x{escape}y": 1')


def bomb(width: int, depth: int, item: str = "x") -> str:
    """Lists of aliases of lists of aliases."""
    lines = [f"a: &a [{', '.join([item] * width)}]"]
    for one, before in zip(LETTERS[1:depth], LETTERS, strict=False):
        lines.append(f"{one}: &{one} [{', '.join([f'*{before}'] * width)}]")
    return "\n".join(lines)


def merge_bomb(depth: int) -> str:
    lines = ["a: &a {k: 1}"]
    for one, before in zip(LETTERS[1:depth], LETTERS, strict=False):
        lines.append(f"{one}: &{one} {{<<: [{', '.join([f'*{before}'] * 10)}], {one}: 1}}")
    return "\n".join(lines)


def merge_chain(length: int) -> str:
    return "a0: &a0 {k: 1}\n" + "".join(f"a{i}: &a{i} {{<<: *a{i - 1}, x{i}: 1}}\n" for i in range(1, length))


@pytest.mark.parametrize(
    "text",
    [
        bomb(10, 10),
        bomb(2, 16) + "\nz: [" + "*p, " * 2000 + "]",
        bomb(100, 4),
        f"a: &a {'x' * 4000}\nb: [{'*a, ' * 3000}]",
        merge_bomb(10),
        merge_chain(3000),
        "a: [" + "1," * 900_000 + "]",
        "".join(f"k{i}: 1\n" for i in range(120_000)),
        "".join("k: 1\n" for _ in range(120_000)),
        "a: [" + "{x: 1}," * 200_000 + "]",
    ],
    ids=["list", "binary", "wide", "text", "merge", "chain", "values", "keys", "same keys", "mappings"],
)
def test_what_is_too_large_is_refused_soon(text):
    assert len(text) < 2 << 20 and "here line" in refused(text)


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: *a}", "a: &a {<<: *a}", "a: &a [{b: [*a]}]"])
def test_a_value_that_holds_itself_is_refused(text):
    assert "does not hold itself" in refused(text)


@pytest.mark.parametrize(
    "text",
    ["[" * 300 + "]" * 300, "{a: " * 300 + "1" + "}" * 300, "\n" + "".join(" " * i + "- \n" for i in range(1, 300)),
     "[" * 1_000_000, "- " * 3],
)  # fmt: skip
def test_deep_nesting_is_refused(text):
    refused(f"a: {text}")


def test_nesting_up_to_the_bound_is_read():
    inside = MOST_DEPTH - 1  # the mapping at the top is a level, too
    assert parse_yaml(f"a: {'[' * (inside - 1)}{']' * (inside - 1)}", "here")
    assert f"at most {MOST_DEPTH} deep" in refused(f"a: {'[' * (inside + 1)}{']' * (inside + 1)}")


def test_one_long_value_is_refused():
    assert parse_yaml(f"a: {'x' * MOST_IN_VALUE}", "here")
    assert "characters" in refused(f"a: {'x' * (MOST_IN_VALUE + 1)}")


def test_large_files_that_people_have_are_read_in_seconds():
    begun = time.process_time()
    names = [f"n{number:08d} a class with a long name" for number in range(22_000)]
    text = "data:\n  classes:\n" + "".join(f"  - {name}\n" for name in names)
    assert parse_yaml(text, "here")["data"]["classes"] == names
    assert len(names) < MOST_VALUES and time.process_time() - begun < 5


def test_a_merged_key_stays_once_where_it_was_merged_before():
    text = "c: &c {a: 1}\nd:\n  - &b {<<: *c, a: 5}\n  - {<<: *b, x: 1}\ne: {<<: *b}\n"
    assert parse_yaml(text, "here")["e"] == {"a": 5}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{<<: *c, a: 5}", {"a": 5, "b": 2}),
        ("{a: 5, <<: *c}", {"a": 5, "b": 2}),
        ("{<<: [*c, *d]}", {"a": 1, "b": 2, "e": 4}),
        ("{<<: [*d, *c]}", {"a": 3, "b": 2, "e": 4}),
    ],
)
def test_merging_is_by_the_book(text, value):
    assert parse_yaml(f"c: &c {{a: 1, b: 2}}\nd: &d {{a: 3, e: 4}}\nx: {text}\n", "here")["x"] == value


@pytest.mark.parametrize("text", ["{<<: 1}", "{<<: [1]}", "{<<: [[{a: 1}]]}", "{<<: ~}"])
def test_only_mappings_are_merged(text):
    assert "<< names mappings" in refused(f"a: {text}")


def test_long_and_strange_names_are_told_in_a_line():
    assert "given twice" in refused(f"{'k' * 120}: 1\n{'k' * 120}: 2")


def test_files_of_other_kinds_are_refused_at_once(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "large").write_bytes(b"#" * (3 << 20))
    for name in ("pipe", "loop", "zero", "large", "x" * 5000, "nul\0"):
        with pytest.raises(UserError) as caught:
            read_yaml(tmp_path / name)
        assert "\n" not in str(caught.value)
