"""A small part of the campaign, with a fixed seed, and what its table and its processes do."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sousvit.errors import UserError
from tests.campaign import apart
from tests.campaign.kinds import KINDS, SILENCE, SMALL, WHOLE
from tests.campaign.outcome import Outcome, chance_of, fault_of, fault_of_line, grouped, table
from tests.dying_attacks import dying, failing
from tests.watched import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("kind", SMALL)
def test_sousvit_stands_a_small_part_of_the_campaign(kind):
    found = list(KINDS[kind](range(SMALL[kind]), 7))
    assert len(found) == SMALL[kind] and not [outcome for outcome in found if outcome.finding]


def test_every_kind_has_its_counts():
    assert set(WHOLE) == set(KINDS) == set(SILENCE) and set(SMALL) == set(KINDS) - {"cluster"}


def test_the_table_counts_by_kind_and_names_what_went_wrong():
    outcomes = [Outcome("driver killed"), Outcome("driver killed", "2 trials were lost"), Outcome("budget")]
    lines = table(outcomes)
    assert lines[2:4] == ["| budget | 1 | 1 |", "| driver killed | 2 | 1 |"]
    assert lines[-1] == "- driver killed: 2 trials were lost"


@pytest.mark.parametrize("numbers", [range(12), range(7, 8), range(3, 10), range(5, 5)])
def test_an_attack_of_a_group_depends_on_its_number_alone(numbers):
    whole = {group: [f"{group} {chance_of(1, group).random()} {place}" for place in range(5)] for group in range(3)}
    found = [one for group, wanted in grouped(numbers, 5) for one in whole[group][wanted.start : wanted.stop]]
    assert found == [one for group in whole.values() for one in group][numbers.start : numbers.stop]


def test_a_refusal_is_a_users_error_in_one_line():
    assert fault_of(UserError("a rule", "that", "do this")) == ""
    assert fault_of(KeyError("x")) == "KeyError: 'x'"
    assert fault_of_line("two\nlines") and fault_of_line("\x1b[31m") and fault_of_line("x" * 7000)


def test_attacks_that_die_or_hang_are_findings_and_the_others_go_on():
    found = list(apart.outcomes("mine", dying, range(7), 3, silence=8))
    own = "mine: the attack itself"
    assert [outcome.kind for outcome in found] == ["one", "one", own, "one", own, "one", "one"]
    told = [outcome.finding for outcome in found if outcome.finding]
    assert told == [
        "the process died: by SIGSEGV (--kind mine --seed 3 --first 2 --count 1)",
        "nothing came for 8 s (--kind mine --seed 3 --first 4 --count 1)",
        "a fault (--kind mine --seed 3 --first 5 --count 1)",
    ]


def test_attacks_that_always_die_are_left():
    found = list(apart.outcomes("mine", failing, range(100), 0, silence=30))
    assert len(found) == apart.MOST_DEATHS and "ValueError: it never begins" in found[0].finding


def test_the_command_writes_its_table(tmp_path):
    command = [sys.executable, "-m", "tests.campaign", "--kind", "yaml", "--count", "12", "--out", tmp_path / "t.md"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout == (tmp_path / "t.md").read_text()
    assert "| YAML, recipe | 2 | 2 |" in done.stdout and ", seed 0, " in done.stdout
