"""The documents, held against the tree: links, commands, marked code, the picture and the benchmarks' folders."""

from __future__ import annotations

import gzip
import json
import re
import runpy
from pathlib import Path
from urllib.parse import urlparse

import pytest

import sousvit
from sousvit.cli.devices import device_app
from sousvit.cli.main import app
from sousvit.objectives.objective import OBJECTIVES
from sousvit.registry import load_class

ROOT = Path(__file__).parents[1]
TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES = sorted([*TOP, *(ROOT / "docs").rglob("*.md")])
#: Done elsewhere, on the files that their readers have: tests/docs/test_quickstarts.py.
QUICKSTARTS = sorted((ROOT / "docs" / "quickstart").glob("*.md"))
OTHERS = sorted([*(ROOT / "benchmarks").rglob("*.md"), *(ROOT / "examples").rglob("*.md"), ROOT / "runs" / "README.md"])
#: A block that begins with ```python run is executed; the blocks of a page share their names.
RUN = re.compile(r"^```python run\n(.*?)^```$", re.S | re.M)
LINK = re.compile(r"\]\(([^)\s]+)\)")
#: Folders of one machine: somebody's home, or where packages lie there.
PLACE = re.compile(r"(?<![\w.~])/(?:home|root|work|Users)/\S*|\S*/site-packages/\S*")
CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.S | re.M)


def named(pages: list[Path]) -> dict[str, object]:
    """Parametrises a test by page."""
    return {"argvalues": pages, "ids": [str(page.relative_to(ROOT)) for page in pages]}


def anchors(page: Path) -> set[str]:
    """What a link to a heading of the page may say behind the #."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code(page: Path) -> str:
    """All code of a page, one piece a line."""
    return "\n".join(CODE.findall(page.read_text()))


@pytest.mark.parametrize("page", **named([*PAGES, *OTHERS]))
def test_every_link_leads_somewhere(page):
    for link in LINK.findall(re.sub(r"```.*?```", "", page.read_text(), flags=re.S)):
        if urlparse(link).scheme:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} is not there"
        assert not anchor or anchor in anchors(target), f"no heading for {link}"


@pytest.mark.parametrize("page", **named([*PAGES, *OTHERS]))
def test_no_page_names_a_place_on_the_machine_that_made_it(page):
    found = PLACE.findall(page.read_text())
    assert not found, f"made on one machine, read on others: {found}"


MARKED = [page for page in PAGES if RUN.search(page.read_text()) and page not in QUICKSTARTS]


@pytest.mark.parametrize("page", **named(MARKED))
def test_marked_code_runs(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    names: dict[str, object] = {"__name__": page.stem}
    for block in RUN.findall(page.read_text()):
        exec(compile(block, str(page), "exec"), names)


def test_the_objective_of_the_page_on_extending_keeps_the_contract_and_is_the_example():
    page, example = {}, runpy.run_path(str(ROOT / "examples" / "worst_class.py"))["WorstClassAccuracy"]
    exec(RUN.findall((ROOT / "docs" / "extending.md").read_text())[0], page)
    found = OBJECTIVES.check(page["WorstClassAccuracy"], "docs/extending.md")
    assert [getattr(found, name) for name in ("name", "unit", "direction", "stage", "summary", "needs_labels")] == [
        getattr(example, name) for name in ("name", "unit", "direction", "stage", "summary", "needs_labels")
    ]


@pytest.mark.parametrize(
    ("name", "check", "also"),
    [
        ("WorstClassAccuracy", sousvit.check_objective, {}),
        ("KeepFirst", sousvit.check_technique, {}),
        ("Reference", sousvit.check_runtime, {}),
        ("Unrepeated", sousvit.check_proposer, {}),
        ("WhenIdle", sousvit.check_device, {"target": sousvit.Target(device="when_idle", patience=0)}),
    ],
)
def test_every_plug_in_of_the_page_on_extending_passes_its_check(name, check, also, tmp_path):
    page = (ROOT / "docs" / "extending.md").read_text()
    [source] = [block for block in RUN.findall(page) if f"class {name}(" in block]
    assert len(source.splitlines()) <= 35 and f"`sousvit.{check.__name__}({name})`" in page
    (tmp_path / "mine.py").write_text(source)
    check(load_class("mine.py:" + name, "plug-in", tmp_path), **also)


@pytest.mark.parametrize("page", **named([*PAGES, ROOT / "benchmarks" / "README.md"]))
def test_every_command_exists(page):
    verbs = {command.name for command in app.registered_commands} | {"device"}
    parts = {command.name for command in device_app.registered_commands}
    text = code(page)
    assert set(re.findall(r"(?:^|[\s`/])sousvit (\w+)", text, re.M)) <= verbs
    assert set(re.findall(r"sousvit device (\w+)", text)) <= parts
    assert set(re.findall(r"(?:^|`)make (\w+)", text, re.M)) <= set(
        re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    )
    for script in re.findall(r"\bpython ([\w/]+\.py)", text):
        assert (ROOT / script).is_file(), f"no {script}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_index_of_the_documents_names_every_page():
    listed = set(LINK.findall((ROOT / "docs" / "index.md").read_text()))
    folder = ROOT / "docs"
    pages = {page.relative_to(folder).as_posix() for page in PAGES if page.is_relative_to(folder)}
    assert pages - {"index.md"} <= listed


def test_what_is_trusted_is_found_from_the_first_pages():
    for page, link in (("README.md", "SECURITY.md"), ("docs/index.md", "../SECURITY.md")):
        assert link in LINK.findall((ROOT / page).read_text())


def test_the_picture_is_drawn_from_its_results():
    drawn = runpy.run_path(str(ROOT / "docs" / "front.py"))["picture"]()
    assert drawn == (ROOT / "docs" / "front.svg").read_text()


def test_the_recording_is_drawn_from_what_a_terminal_got():
    pytest.importorskip("pyte")
    record = runpy.run_path(str(ROOT / "docs" / "record.py"))
    drawn = (ROOT / "docs" / "quickstart.svg").read_text()
    assert record["drawing"]() == drawn and len(drawn.encode()) <= 200_000
    head, *events = map(json.loads, gzip.decompress(record["CAST"].read_bytes()).splitlines())
    assert head["width"] == 80 and events[0][2] == f"$ {record['COMMANDS'][0]}\r\n"
    assert record["COMMANDS"][0] in (ROOT / "README.md").read_text()


def test_every_benchmark_is_a_folder_with_its_result_and_stands_in_the_index():
    folders = [path for path in (ROOT / "benchmarks").iterdir() if path.is_dir() and path.name != "common"]
    folders = [path for path in folders if any(path.glob("*.*"))]
    index = (ROOT / "benchmarks" / "README.md").read_text()
    assert folders
    for folder in folders:
        assert list(folder.glob("result*.md")), f"{folder.name} has no result"
        assert f"]({folder.name}/result.md)" in index, f"{folder.name} is not in the index"
    assert not list((ROOT / "benchmarks").rglob("*.html"))
