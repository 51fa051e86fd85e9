"""Lines with numbers and checksums: every damage is known, what is whole is read, and earlier logs still are."""

from __future__ import annotations

import gc
import json

import pytest

from sousvit.search.stored.lines import MISSING, MOVED, TORN, TWICE, UNREADABLE, Lines, are_whole, sealed_line

CONTENT = [{"event": "trial", "value": number / 7} for number in range(1, 9)]


def read(path, *lines: bytes) -> tuple[list[int], dict[str, int]]:
    """Which of the objects are read from ``lines``, by their numbers, and what is damaged."""
    path.write_bytes(b"".join(lines))
    found = Lines(path)
    known = [CONTENT.index(content) + 1 for content in found]
    return known, dict(found.damage)


@pytest.fixture
def lines() -> list[bytes]:
    return [sealed_line(content, number) for number, content in enumerate(CONTENT, 1)]


def test_whole_lines_are_json_and_come_back(lines, tmp_path):
    assert all(json.loads(line)["line"] == number for number, line in enumerate(lines, 1))
    assert read(tmp_path / "log", *lines) == ([*range(1, 9)], {})
    assert read(tmp_path / "log", *lines[:-1], lines[-1].rstrip()) == ([*range(1, 9)], {})


def test_every_flipped_bit_of_a_line_is_known(lines, tmp_path):
    line = lines[3]
    for place in range(len(line) - 1):
        for bit in range(8):
            flipped = bytearray(line)
            flipped[place] ^= 1 << bit
            known, damage = read(tmp_path / "log", *lines[:3], bytes(flipped), *lines[4:])
            assert damage and 4 not in known and {1, 2, 3, 5, 6, 7, 8} <= set(known), bytes(flipped)


@pytest.mark.parametrize(
    ("change", "known", "damage"),
    [
        (lambda ls: ls[:3] + ls[4:], [1, 2, 3, 5, 6, 7, 8], {MISSING: 1}),
        (lambda ls: ls[2:], [3, 4, 5, 6, 7, 8], {MISSING: 2}),
        (lambda ls: [*ls[:4], ls[2], *ls[4:]], [*range(1, 9)], {TWICE: 1}),
        (lambda ls: [*ls[:2], ls[3], ls[2], *ls[4:]], [1, 2, 4, 3, 5, 6, 7, 8], {MOVED: 1}),
        (lambda ls: [*ls[:3], b"garbage\n", *ls[3:]], [*range(1, 9)], {UNREADABLE: 1}),
        (lambda ls: [b"\n", *ls], [*range(1, 9)], {UNREADABLE: 1}),
        (lambda ls: [*ls[:3], ls[3][:20] + b"\n", *ls[4:]], [1, 2, 3, 5, 6, 7, 8], {UNREADABLE: 1}),
        (lambda ls: [*ls[:3], ls[3].rstrip(), *ls[4:]], [1, 2, 3, 6, 7, 8], {UNREADABLE: 1, MISSING: 1}),
        (lambda ls: [*ls[:7], ls[7][:20]], [*range(1, 8)], {TORN: 1}),
        (lambda ls: [b"[" * 100_000 + b"\n", *ls], [*range(1, 9)], {UNREADABLE: 1}),
        (lambda ls: [b'"text"\n', b"3\n", *ls], [*range(1, 9)], {UNREADABLE: 2}),
    ],
)
def test_what_is_damaged_is_counted_and_the_rest_is_read(lines, tmp_path, change, known, damage):
    assert read(tmp_path / "log", *change(lines)) == (known, damage)


def test_lines_of_an_earlier_version_are_read_and_go_on_with_numbers(tmp_path):
    path = tmp_path / "log"
    old = [json.dumps(content).encode() + b"\n" for content in CONTENT[:4]]
    assert read(path, *old) == ([1, 2, 3, 4], {})
    new = [sealed_line(content, number) for number, content in enumerate(CONTENT[4:], 5)]
    assert read(path, *old, *new) == ([*range(1, 9)], {})
    assert read(path, *old[:2], b"{\n", *old[3:], *new)[1] == {UNREADABLE: 1}


def test_a_checksum_that_is_taken_away_is_a_damage(lines, tmp_path):
    bare = {**CONTENT[3], "line": 4}
    known, damage = read(tmp_path / "log", *lines[:3], json.dumps(bare).encode() + b"\n", *lines[4:])
    assert 4 not in known and damage == {UNREADABLE: 1}


def test_a_number_beyond_everything_costs_no_memory(lines, tmp_path):
    known, damage = read(tmp_path / "log", *lines[:7], sealed_line(CONTENT[7], 10**15))
    assert known == [*range(1, 9)] and damage == {MISSING: 10**15 - 8}


def test_a_log_is_whole_while_every_line_is_as_it_was_written_in_its_place(tmp_path):
    path, lines = tmp_path / "log", [sealed_line({"value": number}, number) for number in range(1, 6)]
    changed = {
        "whole": lines,
        "flipped": [*lines[:2], lines[2].replace(b"3", b"4", 1), *lines[3:]],
        "swapped": [lines[0], lines[2], lines[1], *lines[3:]],
        "doubled": [*lines, lines[-1]],
        "lost": [*lines[:2], *lines[3:]],
        "torn": [*lines[:4], lines[4][:-3]],
        "without its end": [*lines[:4], lines[4][:-1]],
        "of an earlier version": [*lines[:4], b'{"value":5}\n'],
    }
    for name, content in changed.items():
        path.write_bytes(b"".join(content))
        assert are_whole(path) == (name == "whole"), name


def test_lines_that_begin_otherwise_are_passed_over(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"".join(sealed_line({"event": kind}, number) for number, kind in enumerate("abab", 1)))
    assert [line["event"] for line in Lines(path, (b'{"event":"a"',))] == ["a", "a"]


def test_reading_leaves_the_search_for_unused_cycles_as_it_was(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(sealed_line({}, 1) + b"damaged\n")
    gc.disable()
    try:
        list(Lines(path))
        assert not gc.isenabled()
    finally:
        gc.enable()
    list(Lines(path))
    assert gc.isenabled()
