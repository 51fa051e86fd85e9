"""Searches judge what they judged before: the traces in ``traces.json``, which every machine gives alike."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("search_traces", Path(__file__).with_name("traces.py"))
traces = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(traces)
STORED = json.loads(traces.STORED.read_text())


def test_every_scenario_has_a_stored_trace():
    assert set(STORED) == set(traces.PORTABLE)


@pytest.mark.parametrize("name", STORED)
def test_a_search_is_bit_equal_to_its_stored_trace(name):
    assert [traces.line(trial) for trial in traces.PORTABLE[name]()] == STORED[name]
