"""optuna-dashboard on a run: it shows the run's front, writes nothing, and says in a line what is missing."""

from __future__ import annotations

import importlib.util
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from sousvit.errors import UserError
from sousvit.search.proposers.study_file import STUDY_FILE
from sousvit.search.report.dashboard import open_study, serve

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_dashboard = pytest.mark.skipif(
    importlib.util.find_spec("optuna_dashboard") is None, reason="optuna-dashboard is not installed"
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


@pytest.fixture
def searched(simulated):
    run = simulated(in_memory=False, optimize=["latency", "size"])
    run.engine.run()
    return run


@pytest.fixture
def served(searched):
    """The address of a run's dashboard, started as a user does."""
    folder = searched.archive.folder
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "sousvit", "dashboard", folder.name, "--runs", folder.parent, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            assert process.poll() is None, "it ended"
            try:
                urllib.request.urlopen(f"{address}/api/studies", timeout=5).read()
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait()


@needs_dashboard
@needs_chromium
@pytest.mark.slow
def test_the_dashboard_in_a_browser_shows_the_front(searched, served, tmp_path):
    picture, before = tmp_path / "dashboard.png", (searched.archive.folder / STUDY_FILE).read_bytes()
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,2200",
               "--virtual-time-budget=30000", f"--user-data-dir={tmp_path / 'profile'}"]  # fmt: skip
    command = [CHROMIUM, *options, f"--screenshot={picture}", "--dump-dom", f"{served}/dashboard/studies/0"]
    page = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert picture.stat().st_size > 20_000
    assert all(f">{name}<" in page for name in ("latency", "size"))
    plot = page[page.index("Pareto Front") :]
    traces = re.split(r'<g class="trace scatter', plot)[1:4]  # what holds no limit, what is dominated, the front
    front = {tuple(re.findall(r"translate\(([^)]*)\)", point)) for point in points(traces[2])}
    wanted = searched.archive.front(searched.engine.goals)
    assert len(front) == len(wanted) > 1, f"{len(front)} points, {len(wanted)} recipes; see {picture}"
    assert (searched.archive.folder / STUDY_FILE).read_bytes() == before


def points(trace):
    return re.findall(r'<path class="point"[^>]*>', trace[: trace.index("</g></g>")])


def test_a_study_is_read_while_it_grows_and_only_the_search_writes_it(searched):
    storage = open_study(searched.archive.folder)
    (study,) = storage.get_all_studies()
    assert len(storage.get_all_trials(study._study_id)) == len(searched.archive)
    with pytest.raises(OSError, match="only the search writes"):
        storage.set_study_user_attr(study._study_id, "note", "mine")


def test_a_run_without_a_study_and_a_damaged_one_are_one_line(searched, tmp_path):
    with pytest.raises(UserError, match="a dashboard shows a run's study"):
        open_study(tmp_path)
    path = searched.archive.folder / STUDY_FILE
    path.write_bytes(path.read_bytes().replace(b"latency", b"latencY", 1))
    with pytest.raises(UserError, match="a study is as the search wrote it"):
        open_study(searched.archive.folder)


def test_without_the_dashboard_one_line_says_what_to_install(searched, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(UserError, match=r"pip install 'sousvit\[dashboard\]'"):
        serve(searched.archive.folder, 8080)


@needs_dashboard
def test_a_port_that_is_taken_is_one_line(searched):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="the dashboard's port must be free"):
            serve(searched.archive.folder, taken.getsockname()[1])
