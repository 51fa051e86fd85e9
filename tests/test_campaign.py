"""A small part of the campaign, with a fixed seed."""

from __future__ import annotations

import pytest

from tests.campaign.kinds import KINDS, SMALL
from tests.campaign.outcome import Outcome, table


@pytest.mark.slow
@pytest.mark.parametrize("kind", SMALL)
def test_sousvit_stands_a_small_part_of_the_campaign(kind):
    found = list(KINDS[kind](range(SMALL[kind]), 7))
    assert len(found) == SMALL[kind] and not [outcome for outcome in found if outcome.finding]


def test_the_table_counts_by_kind_and_names_what_went_wrong():
    outcomes = [Outcome("driver killed"), Outcome("driver killed", "2 trials were lost"), Outcome("budget")]
    lines = table(outcomes)
    assert lines[2:4] == ["| budget | 1 | 1 |", "| driver killed | 2 | 1 |"]
    assert lines[-1] == "- driver killed: 2 trials were lost"
