"""What targets can tell, and whether a resumed run has the browsers it began with."""

from __future__ import annotations

from typing import Any

import pytest

from sousvit.errors import UserError
from sousvit.objectives.objective import get_objective
from sousvit.search.judging.target_facts import require_same_browsers, told

BROWSER = {"name": "Firefox", "version": "150.0", "tick_us": 1000, "isolated": False, "secure": False, "gpu": ""}
PHONE: dict[str, Any] = {
    "cpu": "Firefox 150.0 on Android",
    "cores": 8,
    "tails": False,
    "runtimes": {"onnxruntime-web": "1.30.0"},
    "browser": BROWSER,
}
BOARD: dict[str, Any] = {"cpu": "Cortex-A76", "cores": 4, "runtimes": {"onnxruntime": "1.32.0"}}
NAMES = ("accuracy", "latency", "latency_p95", "latency_p99_ratio", "latency@phone", "latency_p95@phone")


@pytest.mark.parametrize(
    ("first", "wanted"),
    [
        ("board", ["accuracy", "latency", "latency_p95", "latency_p99_ratio", "latency@phone"]),
        ("phone", ["accuracy", "latency", "latency@phone"]),
    ],
)
def test_a_coarse_clock_tells_no_percentiles(first, wanted) -> None:
    objectives = [get_objective(name) for name in NAMES]
    assert [one.name for one in told(objectives, {"board": BOARD, "phone": PHONE}, first)] == wanted


@pytest.mark.parametrize(
    "change",
    [
        {"browser": {**BROWSER, "version": "151.0"}},
        {"browser": {**BROWSER, "isolated": True}},
        {"browser": {**BROWSER, "tick_us": 20}},
        {"runtimes": {"onnxruntime-web": "1.31.0"}},
        {"cpu": "Safari 26 on iPhone"},
        {"browser": None},
    ],
)
def test_another_browser_does_not_go_on(change) -> None:
    known = {"board": BOARD, "phone": PHONE}
    require_same_browsers(known, {"board": {**BOARD, "cpu": "another"}, "phone": {**PHONE, "date": "later"}})
    with pytest.raises(UserError, match="a resumed run has the browsers it began with; received target phone: ") as one:
        require_same_browsers(known, {"board": BOARD, "phone": {**PHONE, **change}})
    assert "\n" not in str(one.value)
