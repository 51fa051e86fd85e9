"""A page in a real browser measures what it is handed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from sousvit.errors import SharedInputError, TrialError, UserError
from sousvit.models.load import load
from sousvit.objectives.devices.browser import relay as relaying
from sousvit.objectives.devices.remote import agreement
from sousvit.objectives.devices.remote.agreement import Agreement
from sousvit.objectives.devices.remote.names import is_loopback
from sousvit.objectives.runtimes.runtime import open_session
from sousvit.objectives.targets.profiles import make_target
from sousvit.objectives.timing import Group, TimingPlan, summarise
from sousvit.search.budget import read_budget
from sousvit.spaces.conformance import exported, tiny_context, tiny_vit
from sousvit.spaces.context import Context
from sousvit.spaces.export.artifact import Artifact
from sousvit.spaces.export.export import make_artifact
from sousvit.spaces.images import open_splits
from sousvit.spaces.recipe import Recipe, Step
from tests.objectives.devices.browser.conftest import PLAN, complaints, device_of, headline, show, wait_for

EXAMPLE = Path(__file__).parents[4] / "examples" / "fashion-mnist"
CLIENTS = "a token of some length"


def test_it_tells_what_it_is_and_times_models_in_turns(relay, page, pair) -> None:
    device = device_of(relay)
    facts = device.check()
    assert facts["cpu"].startswith("Chromium ") and set(facts["runtimes"]) >= {"onnxruntime-web"}
    assert facts["browser"]["isolated"] and facts["browser"]["tick_us"] == 5 and facts["tails"] and not facts["energy"]
    timings = device.time(pair, "base", PLAN, with_baseline=True)
    assert set(timings) == {"half", "base"} and all(timing.tails for timing in timings.values())
    assert 0 < timings["half"].ratio_low <= timings["half"].ratio <= timings["half"].ratio_high
    probe = device.probe(pair["half"])
    assert 0 < probe.memory_bytes < probe.process_bytes and probe.load_ms > 0
    wait_for(lambda: page.value("document.querySelector('#measured').textContent") == "2")
    assert complaints(page) == []
    assert relay.files == {}, "files are there for the page as long as it works on them"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Artifact], np.ndarray]:
    """The embedded base as float32, dynamic int8 and QDQ, and 100 images."""
    budget = read_budget(EXAMPLE / "budget.yaml")
    model = load(budget.model)
    splits = open_splits(budget.data, model, None)
    context = Context(model.normalise, calibration=splits.train.head(64))
    steps = {"fp32": None, "dynamic": Step.make("int8_dynamic"), "qdq": Step.make("static_int8")}
    folder, shape = tmp_path_factory.mktemp("trained"), (1, model.channels, *model.size)
    made = (0.5,) * model.channels, (0.5,) * model.channels, "onnxruntime"
    artifacts = {
        name: make_artifact(model.module, shape, *made, step, context, folder / name) for name, step in steps.items()
    }
    return artifacts, model.normalise(splits.validation.head(100).images()).numpy()


def test_it_computes_what_the_native_runtime_does(relay, page, trained, monkeypatch) -> None:
    artifacts, images = trained
    monkeypatch.setattr(agreement, "IMAGES", len(images))
    told: dict[str, Any] = {}
    check = Agreement.check

    def spy(self: Agreement, made_for: dict[str, Artifact], predictions: dict[str, Any]) -> None:
        told.update(predictions)
        check(self, made_for, predictions)

    monkeypatch.setattr(Agreement, "check", spy)
    device = device_of(relay)
    device.show(images)
    device.time(artifacts, "fp32", PLAN)
    bounds = {"fp32": 1e-4, "dynamic": 0.1, "qdq": 0.1}
    for name, artifact in artifacts.items():
        with open_session(artifact, 1, batch=1) as session:
            own = np.concatenate([session.run(image[None]) for image in images])
        there = np.array(told[name]).reshape(own.shape)
        assert (own.argmax(1) == there.argmax(1)).all(), name
        assert np.abs(own - there).max() < bounds[name], name


def test_a_browser_that_computes_something_else_is_found_out(relay, page, pair, monkeypatch) -> None:
    own = Agreement._predictions
    monkeypatch.setattr(Agreement, "_predictions", lambda self, artifact: own(self, artifact)[::-1])
    with pytest.raises(TrialError, match="the browser computes something else: relative error"):
        device_of(relay).time(pair, "base", PLAN)


def test_a_file_that_is_no_model_is_the_trials_own_failure(relay, page, pair, tmp_path) -> None:
    shutil.copytree(pair["half"].folder, tmp_path / "broken")
    broken = Artifact.open(tmp_path / "broken")
    broken.path.write_bytes(broken.path.read_bytes()[:-300])
    device = device_of(relay)
    with pytest.raises(TrialError, match="target phone"):
        device.time({"broken": broken, "base": pair["base"]}, "base", PLAN)
    assert device.probe(pair["half"]).load_ms > 0, "the next one gets a worker of its own"


#: Sessions of known length, timed by a clock that only they move, and that ticks every so many milliseconds.
SIMULATED = """(async () => {
  const { timeAll, tickOfClock } = await import("/measure.js");
  const real = performance.now.bind(performance);
  let time = 0, looks = 0;
  performance.now = () => { looks += 1; time += 1e-5; return Math.floor(time / TICK + 1e-9) * TICK; };
  try {
    const run = (milliseconds) => async () => { time += milliseconds * (looks % 7 ? 1 : 1.02); };
    const plan = { min_seconds: 0.6, max_seconds: 3, min_groups: 5, round_seconds: 0.015, warmup: 3 };
    return JSON.stringify(await timeAll({ small: run(0.313), base: run(1.071) }, "base", plan, false, () => {}));
  } finally { performance.now = real; }
})()"""


@pytest.mark.parametrize("tick", [0.1, 1.0])
def test_a_coarse_clock_agrees_with_a_fine_one(tick, page) -> None:
    found = {}
    for one in (0.005, tick):
        plain = json.loads(page.value(SIMULATED.replace("TICK", str(one))))
        groups = [Group(**group) for group in plain["small"]]
        assert all(group.means == (one > 0.02) for group in groups)
        found[one] = summarise(groups, TimingPlan(min_groups=5))
    fine, coarse = found[0.005], found[tick]
    assert fine.tails and not coarse.tails
    assert coarse.p50_ms == pytest.approx(fine.p50_ms, rel=0.05)
    assert coarse.ratio == pytest.approx(fine.ratio, rel=0.05) and fine.ratio == pytest.approx(0.313 / 1.071, rel=0.05)
    rounds = [sum(group.baseline_first) for group in groups]
    assert min(rounds) >= 50 * 1e-3 * tick * 0.95, "a round lasts 50 ticks"


@pytest.fixture
def coarse(tmp_path, monkeypatch) -> None:
    """The pages of relays have Firefox's clock of 1 ms."""
    folder = shutil.copytree(relaying._PAGE, tmp_path / "page")
    stub = "{ const fine = performance.now.bind(performance); performance.now = () => Math.floor(fine()); }\n"
    (folder / "measure.js").write_text(stub + (folder / "measure.js").read_text())
    monkeypatch.setattr(relaying, "_PAGE", folder)


def test_a_page_with_a_coarse_clock_gives_means_and_no_percentiles(coarse, relay, page, pair) -> None:
    device = device_of(relay)
    facts = device.check(["latency"])
    assert facts["browser"]["tick_us"] == 1000 and not facts["tails"]
    timing = device.time(pair, "base", PLAN)["half"]
    assert not timing.tails and 0 < timing.ratio_low <= timing.ratio <= timing.ratio_high
    with pytest.raises(SharedInputError, match="percentiles need a clock for single inferences"):
        device.check(["latency_p99_ratio"])


def test_threads_without_isolation_are_refused_in_one_line(relay, browser, pair, monkeypatch) -> None:
    headers = {key: value for key, value in relaying.PageHandler.HEADERS.items() if "Embedder" not in key}
    monkeypatch.setattr(relaying.PageHandler, "HEADERS", headers)
    show(browser, relay)
    device = device_of(relay, threads=2)
    with pytest.raises(UserError, match="more than one thread needs an isolated page; received threads 2") as told:
        device.check()
    assert "\n" not in str(told.value)
    with pytest.raises(TrialError, match="threads 2 need an isolated page"):
        device.time(pair, "base", PLAN)
    assert device_of(relay).check()["browser"]["tick_us"] == 100


def test_plain_http_in_a_network_gives_one_thread_and_a_coarse_clock(serve_relay, browser, pair, monkeypatch) -> None:
    relay = serve_relay(token=CLIENTS, host="0.0.0.0")
    address = relay.page_address("0.0.0.0")
    if is_loopback(urlsplit(address).hostname or ""):
        pytest.skip("this machine has no address in a network")
    browser.open(address, 390)
    wait_for(lambda: headline(browser) == "Ready")
    monkeypatch.setenv("SOUSVIT_TEST_TOKEN", CLIENTS)
    device = device_of(relay, token_env="SOUSVIT_TEST_TOKEN")
    facts = device.check()
    assert not (facts["browser"]["secure"] or facts["browser"]["isolated"] or facts["tails"])
    assert facts["browser"]["tick_us"] == 100
    assert not device.time(pair, "base", PLAN)["half"].tails
    assert browser.value("document.querySelector('#advice').textContent").count("Over plain HTTP") == 1
    browser.open("about:blank", 390)


def test_two_threads_on_an_isolated_page(relay, page, pair) -> None:
    device = device_of(relay, threads=2)
    assert device.time(pair, "base", PLAN)["half"].ratio > 0
    assert complaints(page) == []


def test_targets_of_browsers() -> None:
    def target(**values: Any) -> Any:
        return make_target({"device": "phone", "agent": "http://a:1", **values}, Path())

    assert target(runtime="onnxruntime-web").artifacts == {"onnxruntime": "onnxruntime-web"}
    for values, words in (
        ({"runtime": ["onnxruntime-web", "onnxruntime"]}, "a target is a browser or it is none"),
        ({"runtime": "onnxruntime-web", "cores": 1}, "a browser is not pinned to cores"),
        (
            {"runtime": "onnxruntime-web", "device": "local", "agent": None},
            "runs in a browser; .*--web",
        ),
    ):
        with pytest.raises(UserError, match=words):
            target(**values)


def test_an_agent_without_a_page_is_no_browser(start_agent) -> None:
    agent = f"http://127.0.0.1:{start_agent().server_port}"
    device = device_of(type("Served", (), {"server_port": int(agent.rpartition(":")[2])}))
    with pytest.raises(SharedInputError, match="a browser's agent serves a page"):
        device.check()


@pytest.mark.parametrize("threads", [1, 2])
def test_litert_files_are_timed_in_litert_js_beside_the_base(threads, relay, page, pair, litert_half) -> None:
    device = device_of(relay, runtime=["onnxruntime-web", "litert-web"], threads=threads)
    assert "litert-web" in device.facts()["runtimes"]
    timing = device.time({"half": litert_half, "base": pair["base"]}, "base", PLAN)["half"]
    assert timing.ratio > 0, "its predictions were those of LiteRT here"
    if threads == 1:
        probe = device.probe(litert_half)
        assert 0 < probe.memory_bytes < probe.process_bytes and probe.load_ms > 0


@pytest.fixture(scope="module")
def litert_half(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    pytest.importorskip("litert_torch")
    return exported(tiny_vit(1), Recipe((), "litert"), tiny_context(), tmp_path_factory.mktemp("litert") / "half")


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits(width, browser, relay) -> None:
    show(browser, relay, width)
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value("document.querySelectorAll('#facts div').length") == 5
    browser.open("about:blank", 390)


@pytest.mark.slow  # software draws what a graphics processor would
def test_a_graphics_processor_is_a_runtime_of_its_own(relay, start_browser, pair) -> None:
    software = "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"
    browser = show(start_browser(*software), relay)
    device = device_of(relay, runtime="onnxruntime-webgpu", timeout=60)
    facts = device.facts()
    if not facts["browser"]["gpu"]:
        pytest.skip("this Chromium has no graphics processor made of software")
    assert device.check()["runtimes"]["onnxruntime-webgpu"]
    timing = device.time(pair, "base", PLAN)["half"]
    assert timing.ratio > 0, "its predictions were those of ONNX Runtime here"
    assert browser.value("document.querySelector('#facts').textContent.includes('swiftshader')")


def test_without_a_graphics_processor_its_runtime_is_not_there(relay, page) -> None:
    with pytest.raises(SharedInputError, match="no onnxruntime-webgpu there"):
        device_of(relay, runtime="onnxruntime-webgpu").check()
