"""What happens to a page happens to phones: killed, loaded again, hidden, asleep, hot. Right figures, or one line."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sousvit.errors import SharedInputError, TrialError
from sousvit.objectives.devices.browser import desk as desks
from sousvit.objectives.devices.browser import heat
from sousvit.objectives.devices.browser import relay as relaying
from sousvit.objectives.devices.browser.desk import Desk, VoidError
from sousvit.objectives.devices.browser.heat import Heat
from sousvit.objectives.devices.browser.relay import Relay
from sousvit.objectives.devices.protocol import Request, RequestError
from sousvit.objectives.devices.remote.head import RefusedError
from sousvit.objectives.devices.remote.store import BusyError
from sousvit.objectives.timing import Group, TimingPlan
from tests.objectives.devices.browser.conftest import PLAN, close, device_of, headline, show, wait_for
from tests.search.report.browser import Browser

LONGER = TimingPlan(min_seconds=2.0, max_seconds=2.5, min_groups=9, round_seconds=0.002, warmup=1)
CLIENTS = "a token of some length"


def meanwhile(relay: Relay, act: Callable[[], object], page: Browser) -> threading.Thread:
    """Acts once, as soon as the page works."""

    def later() -> None:
        wait_for(lambda: relay.files and str(headline(page)).startswith("Measuring"))
        act()

    thread = threading.Thread(target=later, daemon=True)
    thread.start()
    return thread


@pytest.fixture
def quickly_lost(monkeypatch) -> None:
    monkeypatch.setattr(desks, "LOST", 5.0)


def test_a_page_that_was_never_opened_is_one_line(relay) -> None:
    with pytest.raises(SharedInputError, match="no page is open; open the address") as told:
        device_of(relay, patience=0).check()
    assert "\n" not in str(told.value) and "its agent must answer" in str(told.value)


def test_a_browser_killed_in_the_middle_is_waited_for(quickly_lost, start_browser, serve_relay, pair) -> None:
    relay, doomed = serve_relay(), start_browser()
    show(doomed, relay)
    device = device_of(relay)

    def kill() -> None:
        doomed._process.kill()
        show(start_browser(), relay)

    killer = meanwhile(relay, kill, doomed)
    assert device.time(pair, "base", LONGER)["half"].ratio > 0
    killer.join()


def test_a_browser_that_does_not_come_back_fails_the_trial(quickly_lost, start_browser, relay, pair) -> None:
    doomed = start_browser()
    show(doomed, relay)
    killer = meanwhile(relay, doomed._process.kill, doomed)
    with pytest.raises(TrialError, match="the page is gone: nothing was heard of it"):
        device_of(relay, patience=1).time(pair, "base", LONGER)
    killer.join()


def test_a_page_loaded_again_begins_again(relay, page, pair) -> None:
    reloading = meanwhile(relay, lambda: page._call("Page.reload"), page)
    assert device_of(relay).time(pair, "base", LONGER)["half"].ratio > 0
    reloading.join()
    wait_for(lambda: page.value("document.querySelector('#measured').textContent") == "1")


def cover(page: Browser) -> None:
    """Another tab comes to the front."""
    session, page._session = page._session, ""
    other = page._call("Target.createTarget", url="about:blank")["targetId"]
    page._call("Target.activateTarget", targetId=other)
    page._session = session


def test_a_page_in_the_background_makes_the_session_void(relay, page, pair) -> None:
    def hide() -> None:
        cover(page)
        wait_for(lambda: headline(page) == "In the background")
        wait_for(lambda: page.value("document.querySelector('#disturbed').textContent") == "1")
        page._call("Page.bringToFront")

    covering = meanwhile(relay, hide, page)
    assert device_of(relay).time(pair, "base", LONGER)["half"].ratio > 0
    covering.join()
    wait_for(lambda: page.value("document.querySelector('#measured').textContent") == "1")


def test_a_page_asleep_makes_the_session_void(quickly_lost, relay, page, pair) -> None:
    def sleep() -> None:
        page._call("Page.setWebLifecycleState", state="frozen")
        time.sleep(5.5)
        page._call("Page.setWebLifecycleState", state="active")
        cover(page)  # what is woken so stays hidden until another page was in front
        page._call("Page.bringToFront")

    sleeping = meanwhile(relay, sleep, page)
    assert device_of(relay).time(pair, "base", LONGER)["half"].ratio > 0
    sleeping.join()
    wait_for(lambda: headline(page) == "Ready")
    assert int(page.value("document.querySelector('#disturbed').textContent")) >= 1


def test_a_page_that_stood_still_makes_the_session_void(relay, page, pair) -> None:
    block = "(() => { const end = performance.now() + 3000; while (performance.now() < end); })()"
    blocking = meanwhile(relay, lambda: page.value(block), page)
    assert device_of(relay).time(pair, "base", LONGER)["half"].ratio > 0
    blocking.join()
    wait_for(lambda: page.value("document.querySelector('#measured').textContent") == "1")
    assert page.value("document.querySelector('#disturbed').textContent") == "1"


def test_a_relay_started_anew_finds_its_page_again(serve_relay, browser, pair) -> None:
    relay = serve_relay(token=CLIENTS)
    show(browser, relay)
    target = device_of(relay).target.model_copy(update={"token_env": "SOUSVIT_TEST_TOKEN"})
    close(relay)
    wait_for(lambda: headline(browser) == "No connection")
    again = serve_relay(token=CLIENTS, port=relay.server_port)
    wait_for(lambda: headline(browser) == "Ready")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOUSVIT_TEST_TOKEN", CLIENTS)
        device = type(device_of(again))(target)
        assert device.time(pair, "base", PLAN)["half"].ratio > 0
    browser.open("about:blank", 390)


def test_a_second_page_waits_until_the_first_is_gone(quickly_lost, relay, page, start_browser) -> None:
    second = start_browser()
    second.open(relay.page_address("127.0.0.1"), 390)
    wait_for(lambda: headline(second) == "Another page measures")
    assert headline(page) == "Ready"
    page.open("about:blank", 390)
    wait_for(lambda: headline(second) == "Ready")


def test_a_measurement_that_nobody_waits_for_is_given_up(relay, page, pair) -> None:
    device = device_of(relay, timeout=2)
    with pytest.raises(TrialError, match="the page took longer than the target's timeout"):
        device.time(pair, "base", TimingPlan(min_seconds=30.0, max_seconds=30.0))
    wait_for(lambda: headline(page) == "Ready")
    assert device_of(relay).time(pair, "base", PLAN)["half"].ratio > 0


def test_another_browser_is_another_device(relay, page, pair, monkeypatch) -> None:
    monkeypatch.setattr("sousvit.objectives.devices.remote.client.TRIES", 1)
    device = device_of(relay, patience=1)
    device.check()
    facts = relay.desk.facts()
    facts["browser"] = {**facts["browser"], "version": "1.0"}
    relay.desk._page.facts = facts
    with pytest.raises(TrialError, match="another machine answers than at first: browser changed"):
        device.time(pair, "base", PLAN)


def test_a_hot_device_rests_and_is_given_up_in_one_line(relay, page, pair, monkeypatch) -> None:
    rests: list[float] = []
    monkeypatch.setattr(relaying, "MOST", heat.MOST)
    monkeypatch.setattr(relaying, "_rest", lambda seconds, is_wanted: rests.append(seconds))
    factors = iter([1.4, 1.05])
    monkeypatch.setattr(relay._heat, "factor", lambda *given: next(factors))
    device_of(relay).time(pair, "base", PLAN)
    assert rests == [0.0, relaying.RESTS[0]], "it rested once, and was measured again"
    monkeypatch.setattr(relay._heat, "factor", lambda *given: 1.3)
    monkeypatch.setattr(relaying, "RESTS", ())
    with pytest.raises(TrialError, match=r"the device is hot: the base takes 1\.30 times as long as at first"):
        device_of(relay, patience=0).time(pair, "base", PLAN)


def test_heat_is_what_makes_every_inference_slower(pair) -> None:
    request = Request("time", pair, "base")

    def session(factor: float, disturbed: int = 0) -> dict[str, list[Group]]:
        slow = [0.05] * disturbed + [0.01 * factor] * (10 - disturbed)
        return {"half": [Group([0.005] * 10, slow, slow) for _ in range(9)]}

    found = Heat()
    assert found.factor(request, session(1.0)) == 1
    assert found.factor(request, session(1.0, disturbed=6)) == pytest.approx(1), "other work is no heat"
    assert found.factor(request, session(1.2)) == pytest.approx(1.2) and found.factor(request, session(0.9)) < 1
    assert found.factor(replace(request, threads=2), session(3.0)) == 1, "with other threads it is another base"


# ------------------------------------------------------------------------------------------------ the desk alone


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def desk() -> Desk:
    found = Desk(Time())
    found.hello("t", "l", {"browser": {}})
    return found


def asked(desk: Desk, read: Callable[[Any], Any] = lambda found: found, **more: Any) -> tuple[threading.Thread, list]:
    """Asks in a thread; what came of it, or what was raised."""
    found: list[Any] = []

    def ask() -> None:
        try:
            found.append(desk.ask({"ask": "time"}, read, more.get("deadline", 1e9), more.get("wanted", lambda: True)))
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    return thread, found


def test_an_answer_reaches_who_asked(desk) -> None:
    thread, found = asked(desk)
    number = wait_for(lambda: desk.next("l", 0.0))["number"]
    assert desk.beat("l", False) == number and desk.next("l", 0.0)["number"] == number, "it may not have arrived"
    desk.answer("l", "another", 7)
    desk.answer("l", number, 42)
    thread.join(5)
    assert found == [42] and desk.beat("l", False) == "" and desk.next("l", 0.0) is None


def test_a_malformed_answer_is_told_on_both_sides(desk) -> None:
    def read(found: Any) -> Any:
        raise RequestError("no figures")

    thread, found = asked(desk, read)
    number = wait_for(lambda: desk.next("l", 0.0))["number"]
    with pytest.raises(RequestError, match="no figures"):
        desk.answer("l", number, None)
    thread.join(5)
    assert isinstance(found[0], RequestError)


def test_a_call_that_waits_is_no_sign_of_life(desk) -> None:
    def wait() -> None:
        with pytest.raises(RefusedError):
            desk.next("l", 100.0)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    time.sleep(0.1)
    desk._clock.now = desks.LOST + 1
    with desk._changed:
        desk._changed.notify_all()
    time.sleep(0.1)
    desk.hello("t2", "l2", {})
    waiting.join(5)
    assert not waiting.is_alive(), "and it is told that its place is taken"


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (lambda desk, number: desk.answer("l", number, None, void="hidden"), VoidError),
        (lambda desk, number: desk.answer("l", number, None, failed="no model"), TrialError),
        (lambda desk, number: desk.hello("t", "l2", {}), BusyError),
        (lambda desk, number: desk.beat("l", True), BusyError),
        (lambda desk, number: setattr(desk._clock, "now", desks.LOST + 1), BusyError),
    ],
)
def test_what_ends_a_request(act, kind, desk) -> None:
    thread, found = asked(desk)
    act(desk, wait_for(lambda: desk.next("l", 0.0))["number"])
    thread.join(5)
    assert isinstance(found[0], kind)


def test_nothing_is_asked_of_a_page_that_is_hidden_or_not_there(desk) -> None:
    desk.beat("l", True)
    with pytest.raises(BusyError, match="not looked at"):
        desk.ask({}, lambda found: found, 1e9, lambda: True)
    with pytest.raises(RefusedError, match="say hello first"):
        Desk().beat("l", False)
