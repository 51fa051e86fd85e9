"""Amounts with units, and paths as users write them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sousvit.data.layout import MOST_PATHS, expand
from sousvit.errors import UserError
from sousvit.objectives.targets.target import Target
from sousvit.registry import absolute_reference
from sousvit.runs import folder_of
from sousvit.search.budget import SearchLimits
from sousvit.search.limits import parse_duration, parse_limits
from sousvit.specs import DataSpec, ModelSpec
from sousvit.text.amounts import amount, amounts
from sousvit.text.paths import at_home, exists, resolved


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1h30m", [(1.0, "h"), (30.0, "m")]),
        (" 1.5 H 2 s ", [(1.5, "h"), (2.0, "s")]),
        ("2 MB", [(2.0, "mb")]),
        ("-3", [(-3.0, "")]),
        ("1e3s", [(1000.0, "s")]),
        ("91%", [(91.0, "%")]),
        ("", []),
        ("soon", []),
        ("1h soon", []),
        ("1..5h", []),
        ("٣h", []),
        ("1" * 65, []),
    ],
)
def test_amounts(text, found):
    assert amounts(text) == found and amount(text) == (found[0] if len(found) == 1 else None)


@pytest.mark.parametrize("text", ["1" * 2_000_000, "1 " * 1_000_000, "1." * 1_000_000, "9" * 60 + "d", "x" * 10**6])
def test_hostile_amounts_are_refused_at_once(text):
    begun = time.process_time()
    for call in (
        lambda: Target(memory=text),
        lambda: parse_limits({"size": text}),
        lambda: SearchLimits(time=text),
    ):
        with pytest.raises(UserError) as caught:
            call()
        assert len(str(caught.value)) < 3000
    assert time.process_time() - begun < 1


def test_durations_are_read_as_before():
    assert parse_duration("1h30m") == 5400 and parse_duration("90 s") == 90 and parse_duration("1.5H") == 5400
    for wrong in ("30", "m", "5x", "1h 30"):
        with pytest.raises(UserError, match="a duration is a number"):
            parse_duration(wrong)


@pytest.mark.parametrize(
    "call",
    [
        lambda path: DataSpec(train=path, test="t").resolved(Path()),
        lambda path: ModelSpec(checkpoint=path).resolved(Path()),
        lambda path: Target(token_file=path, device="x", agent="http://h:1").resolved(Path()),
        lambda path: absolute_reference(f"{path}/a.py:B", Path()),
        lambda path: folder_of(path),
    ],
    ids=["data", "checkpoint", "token", "plug-in", "run"],
)
@pytest.mark.parametrize("path", ["~nosuchuser/x", "/a\0b", "/a" * 3000])
def test_a_path_that_leads_nowhere_is_one_line(call, path):
    with pytest.raises(UserError) as caught:
        call(path)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 3000


def test_links_in_a_circle_are_one_line(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match="lead somewhere"):
        resolved("loop", tmp_path)
    assert not exists(tmp_path / ("x" * 4000)) and at_home("~") == Path.home()


@pytest.mark.parametrize("path", ["{0..999999999}", "{a,b}" * 60, "{a}" * 1300, "x-{0..99999}{a,b}", "{,,,,,,,,,}" * 9])
def test_braces_that_stand_for_too_many_paths_are_refused(path):
    begun = time.process_time()
    with pytest.raises(UserError, match=rf"at most {MOST_PATHS:,} paths|must exist|too long"):
        expand(path)
    assert time.process_time() - begun < 1
