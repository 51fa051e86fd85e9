"""The page in a real browser: at three widths, in the light and the dark, from a file, without a network."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from sousvit.runs import compare_runs
from sousvit.search.report.page.render import render
from tests.search.report.browser import Browser, find_chromium
from tests.search.report.test_page import HOSTILE, made_hostile

pytestmark = pytest.mark.skipif(
    find_chromium() is None, reason="no Chromium here: install one, or set SOUSVIT_CHROMIUM"
)

WIDTHS = (390, 800, 1280)
#: Elements that stand out of the page, besides what scrolls in a box of its own.
OVERFLOW = """(() => { const width = document.documentElement.clientWidth;
  return [...document.body.querySelectorAll('*')].filter(e => !e.closest('.wide, .tall, svg'))
    .filter(e => e.getBoundingClientRect().right > width + 0.5).map(e => e.outerHTML.slice(0, 120)); })()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def page(shown, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "a page #1.html"
    path.write_text(render(shown))
    return path


def keep_picture(browser, name):
    """Screenshots for people, where ``SOUSVIT_SCREENSHOTS`` names a folder."""
    if os.environ.get("SOUSVIT_SCREENSHOTS"):
        browser.screenshot(Path(os.environ["SOUSVIT_SCREENSHOTS"]) / f"{name}.png")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_and_complains_of_nothing(width, dark, browser, page):
    browser.open(page.as_uri(), width, dark=dark)
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value(OVERFLOW) == []
    assert browser.value("document.querySelectorAll('#front .dot').length") > 20
    background = browser.value("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(20, 24, 29)" if dark else "rgb(255, 255, 255)")
    keep_picture(browser, f"page-{width}-{'dark' if dark else 'light'}")
    assert browser.complaints == []


@pytest.mark.parametrize("width", WIDTHS)
def test_a_click_on_a_point_shows_its_recipe_and_its_command(width, browser, page, shown):
    browser.open(page.as_uri(), width)
    plotted = browser.value("[...document.querySelectorAll('#front circle.dot')].map(e => e.dataset.key)")
    answer = next(point for point in shown.points if point.role == "answer")
    assert answer.key in plotted
    browser.click(f"#front [data-key='{answer.key}']")
    assert browser.value("document.querySelector('#trial .recipe').textContent") == "\n".join(answer.steps)
    assert browser.value("document.querySelector('#trial .command').textContent") == "\n".join(answer.commands)
    assert browser.value("document.querySelector('#trial h3').textContent") == "answer, fits"
    keep_picture(browser, f"clicked-{width}")
    assert browser.complaints == []


def test_the_keyboard_goes_from_point_to_point(browser, page, shown):
    browser.open(page.as_uri(), 800)
    assert browser.value("document.querySelectorAll('#front .dot[tabindex=\"0\"]').length") == 1
    browser.value("document.querySelector('#front .dot[tabindex=\"0\"]').focus()")
    first = browser.value("document.activeElement.dataset.key")
    browser.key("ArrowRight")
    second = browser.value("document.activeElement.dataset.key")
    assert second != first
    browser.key("Enter")
    steps = next("\n".join(point.steps) or point.recipe for point in shown.points if point.key == second)
    assert browser.value("document.querySelector('#trial .recipe').textContent") == steps


def test_axes_are_chosen_and_untrained_points_are_off_at_first(browser, page, shown):
    browser.open(page.as_uri(), 1280)
    count = "document.querySelectorAll('#front .dot').length"
    before = browser.value(count)
    shown_states = {"fits", "breaks a limit", "partly trained"}
    has_both = [point for point in shown.points if {"accuracy", "latency_ratio"} <= set(point.values)]
    assert before == sum(point.state in shown_states or point.role != "trial" for point in has_both)
    browser.click("#states input[value=untrained]")
    untrained = sum(point.state == "untrained" for point in has_both)
    assert untrained and browser.value(count) == before + untrained
    assert browser.value("document.querySelectorAll('#front line.limit').length") == 1  # accuracy itself has no limit
    browser.value("document.getElementById('y').value = 'accuracy_drop'")
    browser.value("document.getElementById('y').dispatchEvent(new Event('change'))")
    assert browser.value("document.querySelectorAll('#front line.limit').length") == 2
    assert "accuracy drop, points" in browser.value("document.getElementById('front').textContent")


def test_whatever_a_run_calls_things_stays_text(browser, shown, tmp_path):
    path = tmp_path / "hostile.html"
    path.write_text(render(made_hostile(shown)))
    for width in WIDTHS:
        browser.open(path.as_uri(), width)
        browser.click("#front .dot.base")
        assert browser.value("document.querySelector('#trial .recipe').textContent") == HOSTILE
        assert browser.value("typeof hacked") == "undefined"
        assert browser.value("document.querySelectorAll('img[src=x]').length") == 0
        assert browser.value("document.documentElement.scrollWidth") <= width
        assert browser.complaints == []


def test_the_policy_lets_no_other_script_run_and_nothing_be_loaded(browser, page):
    browser.open(page.as_uri(), 800)
    browser.value("window.added = document.createElement('script'), added.textContent = 'window.hacked = 1', 0")
    browser.value("document.body.append(added)")
    assert browser.value("typeof hacked") == "undefined"
    assert browser.value("fetch('http://127.0.0.1:9/').then(() => 'loaded', () => 'refused')") == "refused"
    assert sum("Content Security Policy" in said for said in browser.complaints) >= 2


def test_long_names_break_no_layout(browser, shown, tmp_path):
    long = "x" * 400
    path = tmp_path / "long.html"
    path.write_text(render(replace(shown, name=long, recipe=long, reason=long, notes=[long], facts=[[long, long]])))
    browser.open(path.as_uri(), 390)
    assert browser.value("document.documentElement.scrollWidth") <= 390 and browser.value(OVERFLOW) == []


def test_it_prints_without_controls_and_in_full(browser, page):
    browser.open(page.as_uri(), 800, dark=True, media="print")
    style = "getComputedStyle(document.querySelector('%s')).%s"
    assert browser.value(style % (".controls", "display")) == "none"
    assert browser.value(style % (".tall", "maxHeight")) == "none"
    assert browser.value(style % ("body", "backgroundColor")) == "rgb(255, 255, 255)"


def test_a_comparison_works_alike(browser, simulated_search, shown_run, tmp_path):
    simulated_search(tmp_path / "second", search={"seed": 1}, limits={"accuracy_drop": 0.03, "latency_ratio": 0.5})
    path = compare_runs([shown_run, tmp_path / "second"]).write(tmp_path / "both.html")
    for width in WIDTHS:
        browser.open(path.as_uri(), width)
        assert browser.value("document.documentElement.scrollWidth") <= width and browser.value(OVERFLOW) == []
        assert browser.value("document.querySelectorAll('#front .dot.answer').length") == 2
        assert browser.value("document.querySelectorAll('#front line.limit').length") == 2, "each run has its own"
        browser.click("#front .dot.answer[data-run='1']")
        assert browser.value("document.querySelector('#trial h3').textContent") == "second: answer, fits"
        keep_picture(browser, f"compare-{width}")
        assert browser.complaints == []
